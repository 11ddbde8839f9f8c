/* Faults on demand in a process under test. Preloaded there (LD_PRELOAD), this stands before a few functions of the C
 * library; FAULTS_FILE names a file that test and process map, through which the test switches each fault on and off
 * and learns how often it struck. faults.py is the other side. Linux with 64-bit files. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t sync_fails; /* not 0: a database's files cannot be brought to the disk */
    int64_t disk_full;  /* not 0: nothing can be written to them */
    int64_t shift_s;    /* how far the wall clock goes ahead */
    int64_t syncs_failed, writes_refused, clocks_shifted;
};

static struct control quiet; /* until, and unless, there is a file */
static struct control *control = &quiet;

static int64_t get(int64_t *field) { return __atomic_load_n(field, __ATOMIC_RELAXED); }
static void count(int64_t *field) { __atomic_fetch_add(field, 1, __ATOMIC_RELAXED); }

__attribute__((constructor)) static void map_control(void) {
    const char *path = getenv("FAULTS_FILE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof quiet, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED)
        control = mapped;
    close(file);
}

/* The library's own function. Looked up at each use: a look-up costs little, and needs no lock and no order of start. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int ends_with(const char *text, const char *end) {
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && !strcmp(text + length - end_length, end);
}

static int is_database(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return ends_with(path, ".db") || ends_with(path, "-wal") || ends_with(path, "-journal");
}

static int sync_fails(int file) {
    if (!get(&control->sync_fails) || !is_database(file))
        return 0;
    count(&control->syncs_failed);
    errno = EIO;
    return 1;
}

static int is_full(int file) {
    if (!get(&control->disk_full) || !is_database(file))
        return 0;
    count(&control->writes_refused);
    errno = ENOSPC;
    return 1;
}

int fsync(int file) { return sync_fails(file) ? -1 : REAL(fsync)(file); }
int fdatasync(int file) { return sync_fails(file) ? -1 : REAL(fdatasync)(file); }

ssize_t write(int file, const void *data, size_t size) {
    return is_full(file) ? -1 : syscall(SYS_write, file, data, size);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    return is_full(file) ? -1 : REAL(pwrite)(file, data, size, at);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    return is_full(file) ? -1 : REAL(pwrite64)(file, data, size, at);
}
int ftruncate(int file, off_t size) { return is_full(file) ? -1 : REAL(ftruncate)(file, size); }
int ftruncate64(int file, off64_t size) { return is_full(file) ? -1 : REAL(ftruncate64)(file, size); }

static int64_t shift(void) {
    int64_t seconds = get(&control->shift_s);
    if (seconds)
        count(&control->clocks_shifted);
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = REAL(clock_gettime)(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = REAL(gettimeofday)(now, zone);
    if (!result && now)
        now->tv_sec += shift();
    return result;
}

time_t time(time_t *at) {
    time_t now = REAL(time)(NULL) + shift();
    if (at)
        *at = now;
    return now;
}
