/* A cheap load client: one thread, epoll. It sends one request, given as a file, on many kept-alive connections, each
   anew when its answer is whole, and prints one JSON object of what it saw while the window of measurement was open.

   usage: client --port P --request FILE [--connections 32] [--chunks N] [--warm-up S] [--seconds S] [--pid PID]…

   Connections are opened a few at a time. The window opens when each has had its first bytes and the warm-up is over.
   `--chunks` is the number of events in a whole stream, so that a stream that lost one is seen; 0: not a stream.
   `--pid` names the processes whose processor time and memory are told. An answer whose framing or status is not right
   is an error; after a hundred errors, or when it takes too long, the client gives up. */
#include "common.h"
#include <dirent.h>

#define OPENING_AT_ONCE 64
#define MOST_ERRORS 100
#define LONGEST_OPENING_S 60
#define HEAD_BYTES 4096
#define MOST_PIDS 64

enum framing { LENGTH, CHUNK_SIZE, CHUNK_SIZE_END, CHUNK_DATA, CHUNK_END, TRAILER };

struct connection {
    int fd;
    bool head_done, answered; /* answered: at least once since it was opened */
    enum framing framing;
    uint64_t left;       /* bytes of the body, or of the chunk of HTTP */
    size_t line_bytes;   /* of the trailer's current line */
    uint64_t sent_at_ns;
    bool first_byte_seen;
    uint32_t events; /* of the current stream */
    size_t mark_bytes;
    char mark[MARK_BYTES + 1];
    size_t head_bytes;
    char head[HEAD_BYTES + 1];
};

/* Microseconds, kept as they come and sorted at the end; what does not fit is counted, not kept. */
struct samples {
    float *values;
    size_t count, room;
};

static int epoll;
static int port;
static char request[65536];
static size_t request_bytes;
static unsigned chunks_expected;
static int pids[MOST_PIDS], pid_count;

static bool measuring;
static unsigned long long answers, chunks, reads_with_chunks, errors;
static int opened, answered_once;
static uint64_t read_at_ns;
static struct samples latency, first_byte, delay;

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

static void send_request(struct connection *c) {
    c->head_done = c->first_byte_seen = false;
    c->head_bytes = c->mark_bytes = 0;
    c->events = 0;
    c->sent_at_ns = now_ns();
    /* The request is far below a socket's buffer: a short write is as good as an error. */
    if (send(c->fd, request, request_bytes, MSG_NOSIGNAL) != (ssize_t)request_bytes)
        errors++;
}

static void connect_and_send(struct connection *c) {
    struct sockaddr_in address = loopback(port);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address))
        give_up("client: connect");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    send_without_delay(c->fd);
    watch(epoll, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
    send_request(c);
}

static void fail(struct connection *c, const char *why) {
    if (errors++ == 0)
        fprintf(stderr, "client: %s\n%.*s\n", why, (int)c->head_bytes, c->head);
    if (errors >= MOST_ERRORS) {
        errno = 0;
        give_up("client: too many errors");
    }
    close(c->fd);
    connect_and_send(c);
}

static void see_mark(struct connection *c) {
    unsigned long long stamp;
    unsigned number;
    if (sscanf(c->mark, MARK_SCAN, &stamp, &number) != 2 || number != c->events)
        errors++;
    c->events++;
    if (measuring) {
        chunks++;
        sample(&delay, stamp, read_at_ns);
    }
}

/* Looks for marks in a piece of the body; one may be cut anywhere. */
static void scan(struct connection *c, const char *from, size_t count) {
    const char *end = from + count;
    while (from < end) {
        if (c->mark_bytes == 0) {
            from = memchr(from, MARK_START, (size_t)(end - from));
            if (!from)
                return;
        }
        size_t take = MARK_BYTES - c->mark_bytes;
        if (take > (size_t)(end - from))
            take = (size_t)(end - from);
        memcpy(c->mark + c->mark_bytes, from, take);
        from += take;
        c->mark_bytes += take;
        if (c->mark_bytes == MARK_BYTES) {
            see_mark(c);
            c->mark_bytes = 0;
        }
    }
}

/* Takes the head's bytes; returns how many, or -1 for a head that no answer here may have. */
static ssize_t take_head(struct connection *c, const char *from, size_t count) {
    size_t before = c->head_bytes, take = HEAD_BYTES - before < count ? HEAD_BYTES - before : count;
    memcpy(c->head + before, from, take);
    c->head_bytes += take;
    c->head[c->head_bytes] = 0;
    char *end = strstr(c->head + (before > 3 ? before - 3 : 0), "\r\n\r\n");
    if (!end)
        return c->head_bytes == HEAD_BYTES ? -1 : (ssize_t)take;
    end[2] = 0;
    c->head_bytes = (size_t)(end + 4 - c->head);
    c->head_done = true;
    const char *length = strcasestr(c->head, "\ncontent-length:");
    bool chunked = strcasestr(c->head, "\ntransfer-encoding: chunked");
    if (strncmp(c->head, "HTTP/1.1 200", 12) || (!length && !chunked))
        return -1;
    c->framing = chunked ? CHUNK_SIZE : LENGTH;
    c->left = chunked ? 0 : strtoull(length + 16, NULL, 10);
    return (ssize_t)(c->head_bytes - before);
}

/* Takes one step of the body's framing; returns the bytes it used. `*whole` is set at the answer's end. */
static size_t take_body(struct connection *c, const char *from, size_t count, bool *whole) {
    if (c->framing == LENGTH || c->framing == CHUNK_DATA) {
        size_t take = c->left < count ? (size_t)c->left : count;
        scan(c, from, take);
        c->left -= take;
        if (c->left == 0) {
            *whole = c->framing == LENGTH;
            c->framing = CHUNK_END;
        }
        return take;
    }
    char byte = *from;
    switch (c->framing) {
    case CHUNK_SIZE:
        if (byte >= '0' && byte <= '9')
            c->left = c->left * 16 + (uint64_t)(byte - '0');
        else if ((byte | 32) >= 'a' && (byte | 32) <= 'f')
            c->left = c->left * 16 + (uint64_t)((byte | 32) - 'a' + 10);
        else
            c->framing = CHUNK_SIZE_END;
        break;
    case CHUNK_SIZE_END:
        if (byte == '\n')
            c->framing = c->left ? CHUNK_DATA : TRAILER;
        c->line_bytes = 0;
        break;
    case CHUNK_END:
        if (byte == '\n') {
            c->framing = CHUNK_SIZE;
            c->left = 0;
        }
        break;
    default: /* TRAILER: ends with an empty line */
        if (byte == '\n') {
            *whole = c->line_bytes == 0;
            c->line_bytes = 0;
        } else if (byte != '\r')
            c->line_bytes++;
    }
    return 1;
}

static void finish_answer(struct connection *c) {
    if (c->events != chunks_expected) {
        fail(c, "a stream ended with events missing");
        return;
    }
    answers++;
    if (measuring)
        sample(&latency, c->sent_at_ns, read_at_ns);
    send_request(c);
}

static void see_first_byte(struct connection *c) {
    c->first_byte_seen = true;
    sample(&first_byte, c->sent_at_ns, read_at_ns);
    if (!c->answered)
        answered_once++;
    c->answered = true;
}

static void read_answer(struct connection *c) {
    static char buffer[262144];
    ssize_t count = recv(c->fd, buffer, sizeof buffer, 0);
    read_at_ns = now_ns();
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0) {
        fail(c, "the connection broke off");
        return;
    }
    if (!c->first_byte_seen)
        see_first_byte(c);
    unsigned long long chunks_before = chunks;
    bool whole = false;
    for (size_t used = 0; used < (size_t)count && !whole;) {
        ssize_t took;
        if (c->head_done)
            took = (ssize_t)take_body(c, buffer + used, (size_t)count - used, &whole);
        else
            took = take_head(c, buffer + used, (size_t)count - used);
        if (took < 0) {
            fail(c, "an answer that is not a framed 200");
            return;
        }
        used += (size_t)took;
    }
    reads_with_chunks += chunks > chunks_before;
    if (whole)
        finish_answer(c);
}

static void serve_until(uint64_t deadline_ns) {
    struct epoll_event ready[512];
    uint64_t now = now_ns();
    int timeout_ms = deadline_ns > now ? (int)((deadline_ns - now) / 1000000) : 0;
    int events = epoll_wait(epoll, ready, 512, timeout_ms);
    for (int i = 0; i < events; i++)
        read_answer(ready[i].data.ptr);
}

static void serve_for(double seconds) {
    for (uint64_t end = now_ns() + (uint64_t)(seconds * 1e9); now_ns() < end;)
        serve_until(end);
}

static void open_all(struct connection *all, int connections) {
    uint64_t deadline = now_ns() + LONGEST_OPENING_S * 1000000000ull;
    while (answered_once < connections) {
        for (int i = 0; i < 8 && opened < connections && opened - answered_once < OPENING_AT_ONCE; i++)
            connect_and_send(&all[opened++]);
        serve_until(now_ns() + 2000000);
        if (now_ns() > deadline) {
            errno = 0;
            give_up("client: not every connection was answered in time");
        }
    }
}

static void read_request_file(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file)
        give_up(path);
    request_bytes = fread(request, 1, sizeof request, file);
    fclose(file);
    if (request_bytes == 0 || request_bytes == sizeof request)
        give_up("client: the request is empty or too large");
}

int main(int count, char **arguments) {
    int connections = 32;
    double warm_up_s = 1, window_s = 3;
    for (int i = 1; i + 1 < count; i += 2) {
        const char *name = arguments[i], *value = arguments[i + 1];
        if (!strcmp(name, "--port"))
            port = atoi(value);
        else if (!strcmp(name, "--request"))
            read_request_file(value);
        else if (!strcmp(name, "--connections"))
            connections = atoi(value);
        else if (!strcmp(name, "--chunks"))
            chunks_expected = (unsigned)atoi(value);
        else if (!strcmp(name, "--warm-up"))
            warm_up_s = atof(value);
        else if (!strcmp(name, "--seconds"))
            window_s = atof(value);
        else if (!strcmp(name, "--pid") && pid_count < MOST_PIDS)
            pids[pid_count++] = atoi(value);
        else
            give_up(name);
    }
    if (!port || !request_bytes || connections < 1)
        give_up("client: --port and --request are needed");
    raise_descriptor_limit();
    alarm((unsigned)(LONGEST_OPENING_S + warm_up_s + window_s + 30)); /* whatever happens, this ends */
    epoll = epoll_create1(0);

    unsigned long long resident_before = resident_kb();
    struct connection *all = calloc((size_t)connections, sizeof *all);
    if (!all)
        give_up("out of memory");
    open_all(all, connections);
    serve_for(warm_up_s);

    /* Streams that stay open have had their first byte by now; where answers follow one another, only the window counts. */
    if (answers)
        first_byte.count = 0;
    unsigned long long answers_before = answers;
    uint64_t processor = processor_ns(), own = (uint64_t)clock(), began = now_ns();
    measuring = true;
    serve_for(window_s);
    measuring = false;
    double elapsed_s = (double)(now_ns() - began) / 1e9;
    processor = processor_ns() - processor;
    own = (uint64_t)clock() - own;

    printf("{\"connections\":%d,\"seconds\":%.3f,\"calls\":%llu,\"chunks\":%llu,\"reads_with_chunks\":%llu,\"errors\":%llu,",
           connections, elapsed_s, answers - answers_before, chunks, reads_with_chunks, errors);
    print_samples("latency_us", &latency);
    print_samples("first_byte_us", &first_byte);
    print_samples("delay_us", &delay);
    printf("\"processor_us\":%.1f,\"resident_before_kb\":%llu,\"resident_kb\":%llu,\"client_busy\":%.3f}\n",
           (double)processor / 1000, resident_before, resident_kb(), (double)own / CLOCKS_PER_SEC / elapsed_s);
    return 0;
}
