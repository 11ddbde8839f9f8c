/* What the client keeps and asks to tell a measurement: samples of times, and the measured processes' time and memory. */
#ifndef MEASURES_H
#define MEASURES_H

#include "common.h"
#include <dirent.h>

#define MOST_PIDS 64

/* Microseconds, kept as they come and sorted at the end; what does not fit is counted, not kept. */
struct samples {
    float *values;
    size_t count, room;
};

static int pids[MOST_PIDS], pid_count;

static void sample(struct samples *to, uint64_t from_ns, uint64_t until_ns) {
    if (to->count == to->room) {
        to->room = to->room ? to->room * 2 : 65536;
        to->values = realloc(to->values, to->room * sizeof *to->values);
        if (!to->values)
            give_up("out of memory");
    }
    to->values[to->count++] = until_ns > from_ns ? (float)(until_ns - from_ns) / 1000 : 0;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, struct samples *from) {
    if (!from->count) {
        printf("\"%s\":null,", name);
        return;
    }
    qsort(from->values, from->count, sizeof *from->values, by_value);
    printf("\"%s\":{\"count\":%zu,\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f},", name, from->count,
           from->values[from->count / 2], from->values[from->count * 99 / 100], from->values[from->count - 1]);
}

/* Processor time of every thread of the processes, from the scheduler's own count: not sampled at a clock tick. */
static uint64_t processor_ns(void) {
    uint64_t sum = 0;
    for (int i = 0; i < pid_count; i++) {
        char path[320];
        snprintf(path, sizeof path, "/proc/%d/task", pids[i]);
        DIR *threads = opendir(path);
        if (!threads)
            give_up("a measured process is gone");
        for (struct dirent *thread; (thread = readdir(threads));) {
            snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pids[i], thread->d_name);
            FILE *file = thread->d_name[0] == '.' ? NULL : fopen(path, "r");
            unsigned long long on_cpu;
            if (file && fscanf(file, "%llu", &on_cpu) == 1)
                sum += on_cpu;
            if (file)
                fclose(file);
        }
        closedir(threads);
    }
    return sum;
}

static unsigned long long resident_kb(void) {
    unsigned long long pages = 0;
    for (int i = 0; i < pid_count; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/statm", pids[i]);
        FILE *file = fopen(path, "r");
        unsigned long long size, resident;
        if (file && fscanf(file, "%llu %llu", &size, &resident) == 2)
            pages += resident;
        if (file)
            fclose(file);
    }
    return pages * (unsigned long long)sysconf(_SC_PAGESIZE) / 1024;
}

#endif
