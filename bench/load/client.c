/* A cheap load client: one thread, epoll. It sends requests, given as files, on many kept-alive connections, each
   anew when its answer is whole, and prints one JSON object of what it saw while the window of measurement was open.

   usage: client --port P --request FILE… [--connections 32] [--chunks N] [--warm-up S] [--seconds S] [--pid PID]…
                 [--beside N --beside-request FILE] [--opening S [--at-least N]]

   The requests are sent in turn, and eight digits after `serial-` in each are the call's number: no two calls are of the
   same bytes. `--beside` opens that many streams more, first, which are neither counted nor expected to end.
   Connections are opened a few at a time. The window opens when each has had its first bytes and the warm-up is over.
   After the seconds of `--opening`, `--at-least` that many will do; `connections` tells how many it were in the end.
   `--chunks` is the number of events in a whole stream, so that a stream that lost one is seen; 0: not a stream.
   `--pid` names the processes whose processor time and memory are told. An answer whose framing or status is not right
   is an error; after a hundred errors, or when it takes too long, the client gives up. */
#include "measures.h"

#define OPENING_AT_ONCE 64
#define MOST_ERRORS 100
#define MOST_REQUESTS 16
#define REQUEST_BYTES 65536
#define SERIAL "serial-"
#define SERIAL_DIGITS 8
#define HEAD_BYTES 4096

enum framing { LENGTH, CHUNK_SIZE, CHUNK_SIZE_END, CHUNK_DATA, CHUNK_END, TRAILER };

struct request {
    char bytes[REQUEST_BYTES];
    size_t count;
    char *serial; /* its digits' place, or NULL */
};

struct connection {
    int fd;
    bool beside; /* a stream that only stands open */
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

static int epoll;
static int port;
static struct request requests[MOST_REQUESTS], beside_request;
static size_t request_count;
static unsigned chunks_expected;

static bool measuring;
static unsigned long long answers, chunks, reads_with_chunks, errors;
static int opened, answered_once;
static uint64_t read_at_ns;
static struct samples latency, first_byte, delay;

static struct request *next_request(struct connection *c) {
    static size_t calls;
    struct request *next = c->beside ? &beside_request : &requests[calls % request_count];
    calls++;
    if (next->serial)
        write_digits(next->serial, SERIAL_DIGITS, calls);
    return next;
}

static void send_request(struct connection *c) {
    struct request *next = next_request(c);
    c->head_done = c->first_byte_seen = false;
    c->head_bytes = c->mark_bytes = 0;
    c->events = 0;
    c->sent_at_ns = now_ns();
    /* The request is far below a socket's buffer: a short write is as good as an error. */
    if (send(c->fd, next->bytes, next->count, MSG_NOSIGNAL) != (ssize_t)next->count)
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
    if (measuring && !c->beside) {
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
    if (c->beside || c->events != chunks_expected) {
        fail(c, c->beside ? "a stream that was to stand open ended" : "a stream ended with events missing");
        return;
    }
    answers++;
    if (measuring)
        sample(&latency, c->sent_at_ns, read_at_ns);
    send_request(c);
}

static void see_first_byte(struct connection *c) {
    c->first_byte_seen = true;
    if (!c->beside)
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

static void open_all(struct connection *all, int connections, double limit_s, int at_least) {
    uint64_t deadline = now_ns() + (uint64_t)(limit_s * 1e9);
    while (answered_once < connections && (answered_once < at_least || now_ns() <= deadline)) {
        for (int i = 0; i < 8 && opened < connections && opened - answered_once < OPENING_AT_ONCE; i++)
            connect_and_send(&all[opened++]);
        serve_until(now_ns() + 2000000);
        if (answered_once < at_least && now_ns() > deadline) {
            errno = 0;
            give_up("client: not every connection was answered in time");
        }
    }
}

static void read_request_file(struct request *into, const char *path) {
    FILE *file = fopen(path, "r");
    if (!file)
        give_up(path);
    into->count = fread(into->bytes, 1, sizeof into->bytes - 1, file);
    fclose(file);
    if (into->count == 0 || into->count == sizeof into->bytes - 1)
        give_up("client: a request is empty or too large");
    char *serial = strstr(into->bytes, SERIAL);
    into->serial = serial ? serial + strlen(SERIAL) : NULL;
    if (serial && strspn(into->serial, "0123456789") < SERIAL_DIGITS)
        give_up("client: " SERIAL " lacks its digits");
}

int main(int count, char **arguments) {
    int connections = 32, beside = 0, at_least = 0;
    double warm_up_s = 1, window_s = 3, opening_s = 60;
    for (int i = 1; i + 1 < count; i += 2) {
        const char *name = arguments[i], *value = arguments[i + 1];
        if (!strcmp(name, "--port"))
            port = atoi(value);
        else if (!strcmp(name, "--request") && request_count < MOST_REQUESTS)
            read_request_file(&requests[request_count++], value);
        else if (!strcmp(name, "--beside"))
            beside = atoi(value);
        else if (!strcmp(name, "--beside-request"))
            read_request_file(&beside_request, value);
        else if (!strcmp(name, "--opening"))
            opening_s = atof(value);
        else if (!strcmp(name, "--at-least"))
            at_least = atoi(value);
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
    if (!port || !request_count || connections < 1 || (beside && !beside_request.count))
        give_up("client: --port and --request are needed, and --beside-request with --beside");
    raise_descriptor_limit();
    alarm((unsigned)(opening_s + warm_up_s + window_s + 30)); /* whatever happens, this ends */
    epoll = epoll_create1(0);

    unsigned long long resident_before = resident_kb();
    struct connection *all = calloc((size_t)(beside + connections), sizeof *all);
    if (!all)
        give_up("out of memory");
    for (int i = 0; i < beside; i++)
        all[i].beside = true;
    open_all(all, beside + connections, opening_s, at_least ? beside + at_least : beside + connections);
    serve_for(warm_up_s);

    /* Streams that stay open have had their first byte by now; where answers follow one another, only the window counts. */
    if (answers)
        first_byte.count = 0;
    unsigned long long answers_before = answers;
    uint64_t processor = processor_ns(), own = (uint64_t)clock(), began = now_ns();
    unsigned long long resident_at_opening = resident_kb();
    measuring = true;
    serve_for(window_s);
    measuring = false;
    double elapsed_s = (double)(now_ns() - began) / 1e9;
    processor = processor_ns() - processor;
    own = (uint64_t)clock() - own;

    printf("{\"connections\":%d,\"seconds\":%.3f,\"calls\":%llu,\"chunks\":%llu,\"reads_with_chunks\":%llu,\"errors\":%llu,",
           answered_once - beside, elapsed_s, answers - answers_before, chunks, reads_with_chunks, errors);
    print_samples("latency_us", &latency);
    print_samples("first_byte_us", &first_byte);
    print_samples("delay_us", &delay);
    printf("\"processor_us\":%.1f,\"resident_before_kb\":%llu,\"resident_at_opening_kb\":%llu,\"resident_kb\":%llu,",
           (double)processor / 1000, resident_before, resident_at_opening, resident_kb());
    printf("\"client_busy\":%.3f}\n", (double)own / CLOCKS_PER_SEC / elapsed_s);
    return 0;
}
