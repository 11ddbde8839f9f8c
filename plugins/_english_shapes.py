"""Runs of three letters in English words, `_` for a word's edge: an entry is two letters and what may follow.

tests/data/make_english_shapes.py writes this file, from the documentation of Python's standard library.
"""

# fmt: off
FOLLOWERS = """
_abcdfgiklmnprstuvw _badegiloprtuy _caehilmoprtuy _dabcdeilnorsuy _eacdfgilmnopqrstvx _fadefgilmnoprstu
_gaceiloruz _haeilortuy _i_cdefglmnoprst _jaosu _keimnw _laeiosuz _mabdeikostuy _nadeiou _obcdfiklmnprstuvw
_padehiloprtuy _qcnu _raeiou _sacehiklmnopqrtuwy _tacehikoprtuwyz _ugnprstu _vaeis _waehior _xsx _yeios _zeio
ab_abceilosy ac_cehiklqrty ad_adehijlmorsvxy aem af_eft ag_aegimnorst ah_ aidflmnrstv ajio ak_aeips
al_cefghiklmnoprstuw am_abeimops an_acdegiknostuvy ap_aehipst ar_abcdefgijklmnorsty as_cehikopstuy
at_acdefhimnorstuy audglnst avaeio aw_aino ax_hils ay_beilos az_y babcdglnrsz bblr bc_lo bd_abi
be_acdefghilnrsty bfu bg_ biglnt bj_e blaeiouy bm_o bno boabdgilmorstuvx bpanr braeio bs_ceot btaelnry
bubdfginrsty bwi by_elpt cabclmnprstuv cc_eou cde ce_abdehilmnprs ch_aefilnorsuy ciadefilmnoprst
ck_abegilnsuwy cl_aeiosu cm_dp cna codeglmnoprsuv cp_ cqu creioy cs_t ct_abcefilmnosuvy culmprst cwa cy_cg
da_belnprsty db_my dcaot dd_aeilrs de_abcdefglmnprstvx dfo dge dhe diacdefgmnorstuv djau dl_eiloy dmai dndi
do_bceimntuw dr_aeioy ds_ht dtahu duacelmnpr dvai dwai dx_ dy_ln ea_bcdfghklmnprstuv eb_aou ec_aehiklorstuw
ed_defgilostuwy ee_dklmnprstv ef_aefilmoprtu eg_aegimoru ehaeio eignprtv ejeu ek_adeis el_acdefilnopstvy
em_abeiopsu en_acdefghioqstuvy eo_bflmnpu ep_aeilorst eq_u er_abcdefghilmnoprstvwy es_cehioprstuy
et_acehilmoprstuwy eues evaei ew_acehilors ex_acehipt ey_efosw ezo faciklmnrsuv fc_ fd_s fe_abcelrstw
ff_efiostv fg_ ficeglnrtvx flaeiou fmt fn_am fo_clnoru fp_a fraeio fs_ei ft_eimopw fulnrst fva fy_i gacilmnrtv
gcc ge_admnorstx gfu gg_eils gh_elt gicdnostv gleioy gmae gn_aeimos go_einoprtu graeio gs_i gtaho guaeilmors
gwi gzi ha_bcdiklnprstuv he_abcdeilmnrstxy hfa hi_bcdefglmnoprstv hleiy hm_es hnai ho_bdilmnorstuw hr_aeo hs_
ht_bclmstw humnst hy_ps ia_bglnrst ib_eilru ic_aehiklnorstuy id_acdegilnostu ie_cdflnrstvw if_cefiotuy
ig_eghimnu ii_ ik_e il_abcdeiklostuy im_aeimpu in_abcdefghiklnopstuvy io_bdnru ip_abdefilprstu iqu
ir_acdeilmnoprst is_acefhijkmopstu it_acehilmoprstuwy ius ivaei ix_eit izaeio jacnv jec jip jobeir jso jumns
ka_bgry kbu kda ke_deflnprstwy kgr kielnp klaeiy km_ kneo kob kpo ks_eilt kup kw_adi ky_ la_bcghimnprstuvyz
lbao lcaou ld_cdeirs le_abcdefglmnoprstvwx lf_or lgo lho liabcdefgkmnopstvz lk_s ll_abceinosy lmo lnae
lo_abcgnoprstuvw lp_aefhs lre ls_eot lt_aehis luacdemrst lvei lwa ly_gi lzm ma_bcdgijklnprstxy mb_deilou md_i
me_acdelmnorstwz micdglmnstxz mks ml_iy mmaeiouy mn_s mo_cdnrstuvz mp_ailorstu ms_egt mt_ip mu_clmnst my_dp
nabfgilmprtvy nbiou nc_acdehilnortuy nd_aceilmorsty ne_acdefgijlmnoqrstvwxy nf_eilou ng_efilrstu nhaei
nicdefgmnopqstvxz nju nk_aeins nleioy nmaeo nn_eio no_dimnorstuvw npailru nqu nre ns_aefhilmoptuw
nt_aefhilorsuy nu_abeilmopstx nv_aeio nwa ny_motw nze oacdrt ob_aejlostu oc_acehikostu od_abdeirsuy oe_frs
of_afit og_aeginorsu oicdlns oje ok_aeisu ol_adeilosuvy om_abeilmopy on_acdefgijlmnostvwyz oo_dklmnprst
op_abcdehilmoprstuy or_acdeiklmnorstwy os_aehiopstu ot_aehinost ou_bcglnprst ov_aei ow_aeilns ox_iy oy_e ozei
pabcdgimnrstuwxy pbao pco pdabio pe_acdelnorst pfiu ph_aeiory pi_cdelmnprtx pl_aeiouy pme pnu pociklnoprstuw
pp_eilory pr_aeiou ps_ehiu pt_aehiosuy publnrst py_cdirt qco qna quaeio ra_bcdgilmnprstvwy rbaio rc_aehilmu
rd_aeilsw re_acdefghijlmnopqrstuvw rfaeilou rg_esu rhae ri_abcdefglmnopstvxz rju rk_aeiosuw rl_adeilopy
rm_aeilos rn_aceios ro_abcdfgjklmnoprstuvwxyz rpalor rr_aeiouy rs_acehiotu rt_abcefhilosuwy rucelnpt rvaei
rwair ry_iopt sa_bcdfgijlmnrstvwy scaehioru sde se_acdefglmnpqrstvw sfeouy sg_ sh_aeilou sibcdeglmnorstvxz sju
sk_eis slaeioy sm_aeist snao so_cflmnopru sp_aeilor squ srac ss_adefilmnouw st_abdeilmnoprsuy suabcefgilmnprs
swadeio sy_mns ta_bcdgiklmnrstuvx tbao tc_hlou tdeilo te_abcdefglmnprstvwx tfilo th_aeimnorsu
tiabcefgklmnoprstvxz tk_i tleioy tmaelos tn_aeou to_cdfgklmnoprstuvw tp_aosu tr_aeiostuy ts_ceit ttaehiklopry
tuabdflnprst tvai twaeio ty_lp tz_i uadglnrt ub_bcdefjlmnpstuw uccehikt udegi ue_dlnrsu uffs ug_aghlmot
uicdelnrstv ul_adeilotu um_abeimnpsu un_abcdefhiklmnopqrstu uotu up_deilopst ur_acegilnprst us_aehilpstu
ut_acdefhilopstu uue ux_ uy_ va_ilnrst ve_bcdflmnrs viacdelnorst vociklr vs_ wabiklnprsty wch wd_s
we_abdeilnrstv whaeioy wicdlnst wleiy wn_eils wo_kmnru wraio ws_e xacdm xc_el xecdlrs xhae xibcemnst xli
xp_aeilor xsci xt_emrsuv xx_ xy_ ybe yc_l ydao ye_adrst yfi ygow yient yl_deio ym_blmo ynacot yofnu yp_aehit
yri ys_cilty yteh ywaho zabt ze_dmnrs zilnp zma zon zy_
"""
