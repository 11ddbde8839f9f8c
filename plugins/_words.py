"""Frequent words that tell languages of one script apart. A word that two sides share stands in none of these lists;
neither does an international one (`index`, `terminal`).
"""

from __future__ import annotations

_ENGLISH = """
    i i'm i've i'll the and of to is are was were be been being it its it's this that these those there here for
    from with without within you your yours we our ours they them their he his him she her hers who whom whose which
    what when where why how not but if then than because while although though since until unless whether as at by
    into onto upon about above below under between through during before after again against off out up down over
    only just also too very much many more most less least few some any all both each every either neither other
    another such same own or nor so can could will would shall should may might must do does did done doing don't
    doesn't didn't can't cannot won't isn't aren't wasn't have has had having let's let get gets got make makes made
    take takes took give gives given go goes going went come comes came see seen look looks looking find finds found
    know knows known think thinks thought want wants need needs needed use uses used using try tries tried trying
    keep keeps kept put say says said tell tells told ask asks asked work works working call calls called show shows
    shown help helps start starts started stop run runs running set sets turn turns move moves live lives feel feels
    leave leaves left bring brings begin begins hold holds write writes written read reads learn learns change
    changes changed follow follows add adds added create creates created build built open opens close closes closed
    check checks return returns returned send sends sent pay buy eat drink sleep walk drive cook wait mean means
    meant like likes love likely maybe perhaps almost always never often sometimes usually really quite rather still
    yet already soon later now today tomorrow yesterday once twice first second third last next new old good better
    best bad worse worst great small large larger big bigger long longer short shorter high higher low lower early
    late easy easily easier hard harder simple simply right wrong true false sure clear clearly different similar
    important possible able ready free full empty fast faster slow slower hot cold warm dry wet fresh clean dirty
    happy sad nice fine welcome please thanks thank hello hey hi goodbye bye yes yeah okay sorry absolutely
    certainly course congratulations luck time times day days week weeks weekend month months year years hour hours
    minute minutes morning afternoon evening night people person man woman child children friend friends family home
    house room city town country world place places way ways thing things something anything nothing everything
    someone anyone everyone somewhere anywhere part parts point points side end ends line lines word words name
    names number numbers sum size example examples question questions answer answers problem problems issue issues
    reason reasons idea ideas step steps case cases kind kinds lot lots bit pair list lists item items value values
    key keys field fields file files folder page pages user users text code error errors warning message messages
    wrote gave knew ran became began bought brought caught felt heard held led lost met paid sat saw slept sold
    spoke spent stood taught won grew fell drove broke chose ago million billion midnight password username account
    accounts confirm variety drew flew worked looked helped stopped turned moved lived wanted liked opened request
    requests response result results output input function functions variable loop string query queries table tables
    row rows column server servers client update updated download install water food meal bread dough egg eggs milk
    cheese chicken rice salt sugar oil butter flour cup spoon pan oven ingredients book books letter letters money
    price cost costs budget job trip travel train bus car road street airport ticket weather rain wind snow sun sea
    beach mountain summer winter spring one two three four five six seven eight nine ten twenty thirty hundred
    thousand half enough around away back forward together instead however therefore otherwise even else ever
    according several along across near far inside outside toward towards per overview introduction summary
    conclusion notes advice tips instructions settings loading saved failed complete completed success unknown
    missing required optional default cheaper stronger strength matter matters depends
"""
# Words that English borrowed and kept the signs of.
_LOANS = """
    café cafés naïve naïvely résumé résumés cliché clichés façade façades déjà à crème brûlée fiancé fiancée
    jalapeño jalapeños piñata purée puréed sauté sautéed sautéing entrée entrées décor über señor señora soufflé
    protégé exposé touché voilà matinée fête pâté piña frappé crêpe crêpes doppelgänger smörgåsbord açaí coöperate
    coördinate zoë
"""
_FRENCH = """
    les des un une et est sont était être avoir ont avez avons nous vous ils elles leur leurs notre votre mes ses ce
    cette ces cet qui que quoi dont où dans avec sans sous chez entre mais donc puis alors aussi très plus moins
    bien peu beaucoup trop tout toute tous toutes comme quand comment pourquoi parce depuis pendant après avant ici
    oui merci bonjour bonsoir salut revoir bonne bon journée soirée nuit semaine jour jours mois année heure heures
    aujourd'hui demain hier peut peuvent pouvez faut faire fait faites fais sais savoir voir vois suis sommes êtes
    êtez jamais toujours encore rien quelque quelques chaque autre autres même celui celle ceux si pas ne deux trois
    quatre cinq sept huit neuf dix cent mille premier première seconde dernière prochaine prochaines étapes eau lait
    sucre beurre farine œufs œuf exemple erreur fichier ville maison monde temps choses désolé cuillère ajoutez
    mettez laissez installez ouvrez utilisez cliquez vérifiez accord plaît volontiers parfait
"""
_GERMAN = """
    der das ein eine einen einem einer eines und ist sind waren sein haben wird werden wurde wurden kann können
    könnten muss müssen soll sollte sollten darf möchte möchten ich er sie wir ihr mich mir dich dir uns euch sich
    mein meine dein deine seine ihre ihren unser nicht kein keine keinen auch nur noch schon sehr mehr viel viele
    vielen wenig wenn weil dass ob als wie wo wer warum wann welche welcher für von vom zum zur mit ohne bei nach
    aus auf unter zwischen durch gegen um bis seit im am ab oder aber denn doch sondern dann danach zuerst hier dort
    heute morgen gestern jetzt immer nie oft etwas nichts alles alle andere anderen jeder jede jedes diese dieser
    dieses diesem gut guten gute gutes besser neu neue neuen klein groß ja nein danke dank bitte hallo tschüss gern
    gerne natürlich abend nacht tage woche wochen wochenende monat jahr jahre stunde stunden minuten uhr zeit
    beispiel fehler fehlermeldung datei wort stadt haus wasser brot milch zucker mehl eier zutaten ahnung schritt
    schritte nächste nächsten geschehen schöne schönes schönen eins zwei drei vier fünf sechs sieben acht neun zehn
    hundert entschuldigung willkommen verstanden achtung hinweis zusammenfassung einleitung übersicht
"""
_SPANISH = """
    una unos unas es está están ser estar fue hay han tiene tienen puede pueden puedes debe yo tú él ella ellos
    nosotros usted ustedes tu su sus lo se que qué quién cuál cuándo dónde cómo por porque para sin sobre entre
    desde hasta hacia pero sino si también muy más menos mucho mucha muchas muchos poco todo toda todos todas otro
    otra cada este esta estos estas ese esa aquí ahora hoy mañana ayer siempre nunca ya aún luego después antes
    cuando como donde del sí claro gracias hola adiós buenos buenas días tardes noches favor nada algo bueno bien
    mejor nuevo nueva gran primero primera uno dos tres cuatro cinco seis siete ocho nueve diez hora horas minutos
    semana mes año tiempo ejemplo archivo palabra ciudad agua leche azúcar harina huevos quiero necesito hacer hace
    sé perfecto siento perdón bienvenido usa abre ejecuta
"""
_PORTUGUESE = """
    os um uma uns umas é são está estão foi ser estar tem têm há pode podem você vocês eu ele ela eles nós meu minha
    seu sua seus da dos das na nos nas ao pelo pela em com sem para por que quem qual quando onde como porque mas ou
    se não sim também muito muita mais menos pouco todo toda todos cada outro outra este esta isso isto aqui agora
    hoje amanhã ontem sempre nunca já ainda depois antes então obrigado obrigada olá bom boa dia tarde noite favor
    claro nada bem melhor novo nova primeiro dois três quatro cinco seis sete oito nove dez hora horas minutos
    semana mês ano tempo exemplo ficheiro arquivo palavra cidade água pão leite farinha ovos desculpe tchau execute
"""
_ITALIAN = """
    il lo gli una uno è sono essere avere hanno può possono deve io tu lui lei noi voi loro mio tuo suo sua di del
    della dei delle dello alla ai alle nel nella nei sul sulla dal dalla tra fra che chi cosa quale quando dove
    perché se non sì anche molto molta più meno poco tutto tutta tutti ogni altro altra questo questa questi queste
    quello qui ora oggi domani ieri sempre mai già ancora poi dopo prima però quindi grazie mille ciao buongiorno
    buonasera buona buono bene prego certo niente nessun nessuno meglio nuovo nuova primo tre quattro cinque sei
    sette otto nove dieci ore minuti settimana mese anno tempo esempio parola città acqua pane latte zucchero farina
    uova scusa scusi arrivederci fare fatto vuoi apri esegui problema
"""
_DUTCH = """
    het een dat deze niet geen zijn wordt worden werd heeft hebben kan kunnen moet moeten zal zou ik jij je hij zij
    wij jullie mijn jouw uw onze hun voor naar bij uit op aan om tot tussen zonder door maar omdat als ook nog wel
    heel zeer meer minder veel weinig alle alles iets niets elke andere hier daar nu vandaag morgen gisteren altijd
    nooit vaak eerst daarna ja nee dank dankjewel bedankt hallo goedemorgen goedenavond dag graag natuurlijk
    alstublieft alsjeblieft goed goede beter nieuw nieuwe eerste twee drie vier vijf zes zeven acht negen tien uur
    minuten maand jaar tijd voorbeeld woord stad huis brood melk suiker bloem eieren waarom wat wie waar hoe welke
    er doe laat deeg
"""
# Swedish, Norwegian and Danish, Finnish.
_NORDIC = """
    och att det är var jag han hon vi ni inte som på av för med till från om eller också mycket mer mindre kan ska
    skulle måste har hade vad vem när hur varför här där nu idag imorgon alltid aldrig tack hej god godmorgon ja nej
    snälla bra bättre ny nya första två tre fyra fem sju åtta nio tio timme timmar minuter vecka månad år tid og er
    ikke jeg å et fra hva hvem hvor hvordan hvorfor nå takk tak hei morgen meget også mye ei se ovat ole oli että
    mutta tai kun kuin joka mitä missä miksi miten kyllä kiitos moi hyvää huomenta päivää paljon vähän enemmän nyt
    tänään huomenna aina sitten
"""
# Polish, Czech, Croatian.
_SLAVIC = """
    na nie się jest są był była być ta te że czy jak co kto gdzie kiedy dlaczego dla od po przed przez przy bez pod
    nad ale albo lub więc bardzo więcej mniej dużo mało wszystko każdy inny tutaj teraz dzisiaj dziś jutro wczoraj
    zawsze nigdy już jeszcze potem najpierw tak dziękuję dzięki proszę cześć dzień dobry dobra dobrze dobranoc
    problemu można trzeba może mogę jeden dwa trzy cztery pięć sześć siedem osiem dziewięć dziesięć godzina godziny
    godzinę minut tydzień rok czas przykład słowo miasto woda chleb mleko mąka jajka je jsou byl být se že kde kdy
    proč nebo také velmi více méně děkuji díky prosím ahoj dobrý dobré ráno ano ne teď dnes zítra vždy nikdy potom
    nejdřív můžete musíte ze ke asi hodinu nechte hvala dobro molim nije jeste šta što kako gdje gde zašto sada
    danas sutra uvijek može treba
"""
# Turkish, Vietnamese, Indonesian, Romanian, Hungarian.
_OTHERS = """
    bir bu şu için ile değil var yok çok daha ama veya çünkü nasıl neden nerede ne kim şimdi bugün yarın zaman sonra
    önce evet hayır teşekkürler teşekkür ederim merhaba günaydın iyi akşamlar lütfen tabii ki tamam olarak olan
    kadar gibi mı saat dakika gün hafta ay yıl iki üç dört beş altı yedi sekiz dokuz sürer không có là và của cho
    với được các những này đó một hai ba bốn năm sáu bảy tám chín mười xin chào cảm ơn bạn tôi rất nhiều ít hơn như
    thế nào tại sao khi nếu thì để trong ngoài trên dưới từ đến hôm nay ngày giờ phút vâng yang di ke dari untuk
    dengan tidak ini itu adalah ada akan bisa dapat harus sudah belum juga lebih sangat banyak sedikit apa siapa
    mana kapan kenapa mengapa bagaimana saya anda kamu kami kita mereka dia atau tetapi karena jika terima kasih
    selamat pagi siang malam ya tolong silakan satu dua tiga empat enam tujuh delapan sepuluh jam menit hari minggu
    bulan tahun lalu sebelum sesudah selama și este sunt nu da cu pe pentru din sau dar mult mulțumesc bună ziua
    dimineața és az egy nem igen vagy hogy köszönöm jó reggelt szia kérem
"""
_RUSSIAN = """
    что это как он она оно они мы вы ты его её ее их ему ей им вас нас нам вам меня мне тебя тебе себя если можно
    нужно надо будет будут быть был была было были есть чтобы только также тоже потом затем когда где почему зачем
    сначала пожалуйста спасибо здравствуйте привет конечно хорошо отлично который которая которое которые которых
    которой котором этот эта эти этого этой этом этих тот того том всё все всех ещё еще очень более менее много мало
    больше меньше лучше хуже после перед через между или либо однако поэтому потому так же вот уже никогда всегда
    сегодня завтра вчера сейчас теперь здесь там нет извините простите понятно думаю знаю могу может можете следует
    нельзя вместе другой другие первый второй третий новый один два три четыре пять шесть семь восемь девять десять
    час часа часов минута минуты минут день дня дней неделя недели год лет время пример слово слова означает город
    дом вода хлеб ничего что-то для из-за под из об обо чем чём о при лишь ли бы чего кого кто утро вечер ночи
    доброе добрый добрая увидимся
"""
_UKRAINIAN = """
    і й та що як це він вона воно вони ми ви його її їх йому їй ним якщо можна треба потрібно буде будуть бути був
    була було були щоб тільки також теж потім коли де чому спочатку спершу ласка дякую привіт вітаю звичайно добре
    чудово який яка яке які якого якої цей ця ці цього цієї цьому той усе всі ще дуже більше менше краще гірше після
    між або проте тому вже ніколи завжди сьогодні вчора зараз тепер немає вибачте зрозуміло можу може слід разом
    інший перший другий третій новий одна чотири шість сім вісім дев'ять година години хвилина хвилини хвилин
    хвилинку тиждень тижні рік років приклад місто хліб нічого із під ранку вечора ранок зустрічі побачення чи
    навіть лише від доброго добрий зачекайте наступні кроки відкрийте перевірте виконайте запустіть встановіть
"""
_BULGARIAN = """
    е са съм сме сте беше бяха бъде ще щe се това този тази тези онова която който което които какво какъв каква
    защо къде кога ако може трябва има няма малко повече по-малко най още вече винаги никога днес утре сега тук също
    първо след преди обаче затова благодаря здравей здравейте здрасти моля добре разбира знам мога искам добро добър
    ден лека нощ довиждане един една едно четири пет шест седем осем девет десет минути седмица година време дума
    град къща хляб нищо всичко всеки към със във чрез докато когато отколкото го ги й ви аз ти той тя ние вие
    извинете чудесно разбрах следващи стъпки изчакайте отворете изберете инсталирайте
"""
# Serbian and Macedonian.
_SOUTH_SLAVIC = """
    је су смо сте није нису био била било ће ћу што шта како зашто када ако може треба има нема више мање још већ
    увек никад данас сутра јуче сада овде тамо такође прво затим пре између али зато хвала здраво молим добро добар
    дан јутро вече наравно знам један једна четири пет шест седам осам девет десет сат сата недеља година време реч
    град кућа ништа све сваки који која које се од са кроз док његов њен овај ова ово тај ги го дека оваа овој тоа
    кој кое кои каде зошто сум сме беше ќе благодарам молам секако потоа помеѓу
"""
_BELARUSIAN = """
    гэта што як ён яна яно яны яго яе іх калі можна трэба будзе быць быў былі каб толькі таксама потым дзе чаму
    спачатку ласка дзякуй прывітанне вядома добра які якая якое якія гэты гэтая усё ўсе яшчэ вельмі больш менш лепш
    пасля перад праз паміж або але таму ужо ніколі заўсёды сёння заўтра зараз цяпер няма добры добрай раніцы дзень
    вечар выканайце адкрыйце
"""


def _words(*lists: str) -> frozenset[str]:
    return frozenset(word for words in lists for word in words.split())


ENGLISH = _words(_ENGLISH)
LOANS = _words(_LOANS)
OTHER_LATIN = _words(_FRENCH, _GERMAN, _SPANISH, _PORTUGUESE, _ITALIAN, _DUTCH, _NORDIC, _SLAVIC, _OTHERS)
RUSSIAN = _words(_RUSSIAN)
OTHER_CYRILLIC = _words(_UKRAINIAN, _BULGARIAN, _SOUTH_SLAVIC, _BELARUSIAN)
