/* A cheap OpenAI-compatible upstream: one thread, epoll, a handful of system calls an answer.

   usage: upstream PORT

   A request with `"stream":true` is answered by Server-Sent Events, any other by one JSON object. Somewhere in its body
   it may say how: `chunks=100` events, `every_us=20000` microseconds apart (0: as fast as the socket takes them), or
   `bytes=1024` of JSON. `GET /count` tells how many answers were begun, so that a harness can see that a proxy
   really asked. Every event is a write of its own, as a model's tokens are. */
#include "common.h"
#include <sys/timerfd.h>

#define TICK_NS 250000u /* the timer's grain; events are stamped when they are sent, so it adds nothing to a delay */
#define WHEEL_SLOTS 4096u
#define EAGER_BURST 16 /* events of an unpaced stream before the next stream has its turn */
#define REQUEST_BYTES 16384
#define ANSWER_BYTES 65536

struct stream_list {
    struct connection *first;
};

struct connection {
    int fd;
    struct connection *next, **link; /* in a slot of the wheel, or among the eager; link is NULL when in neither */
    bool streaming;
    uint32_t chunks, sent;
    uint64_t every_ticks, due_tick;
    char *unsent; /* what the socket did not take; nothing more is written before it is gone */
    size_t unsent_bytes, unsent_from;
    size_t received;
    char request[REQUEST_BYTES];
};

static int epoll;
static int timer;
static size_t on_wheel;
static uint64_t started_ns, tick;
static struct stream_list wheel[WHEEL_SLOTS];
static struct stream_list eager;
static struct connection *dead; /* freed after the turn: epoll may still have told of them */
static unsigned long long answers;

static char event[1024]; /* one event, framed as a chunk of HTTP; only its mark changes */
static size_t event_bytes, mark_at;
static char filler[ANSWER_BYTES];

static const char STREAM_HEAD[] = "HTTP/1.1 200 OK\r\n"
                                  "Content-Type: text/event-stream; charset=utf-8\r\n"
                                  "Cache-Control: no-cache\r\n"
                                  "x-request-id: req_bench\r\n"
                                  "Transfer-Encoding: chunked\r\n\r\n";
#define EVENT_START                                                                                                   \
    "data: {\"id\":\"chatcmpl-bench0123456789abcdefghij\",\"object\":\"chat.completion.chunk\","                      \
    "\"created\":1700000000,\"model\":\"bench\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_bench\","    \
    "\"choices\":[{\"index\":0,\"delta\":"
static const char LAST_EVENT[] = EVENT_START "{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

static void list_add(struct stream_list *list, struct connection *c) {
    c->next = list->first;
    c->link = &list->first;
    if (c->next)
        c->next->link = &c->next;
    list->first = c;
}

static void list_remove(struct connection *c) {
    if (!c->link)
        return;
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    c->link = NULL;
}

static void set_timer(uint64_t period_ns) {
    struct itimerspec period = {.it_interval.tv_nsec = (long)period_ns, .it_value.tv_nsec = (long)period_ns};
    timerfd_settime(timer, 0, &period, NULL);
}

static uint64_t current_tick(void) { return (now_ns() - started_ns) / TICK_NS; }

static void wheel_add(struct connection *c) {
    if (on_wheel++ == 0) {
        tick = current_tick();
        set_timer(TICK_NS);
    }
    if (c->due_tick <= tick)
        c->due_tick = tick + 1;
    list_add(&wheel[c->due_tick % WHEEL_SLOTS], c);
}

static void unschedule(struct connection *c) {
    if (!c->link)
        return;
    list_remove(c);
    if (c->every_ticks && --on_wheel == 0)
        set_timer(0);
}

static void drop(struct connection *c) {
    if (c->fd < 0)
        return;
    unschedule(c);
    close(c->fd);
    c->fd = -1;
    c->next = dead;
    dead = c;
}

static void free_dropped(void) {
    while (dead) {
        struct connection *c = dead;
        dead = c->next;
        free(c->unsent);
        free(c);
    }
}

/* Sends, and keeps what the socket does not take. False: the connection is gone. */
static bool put(struct connection *c, const char *bytes, size_t count) {
    ssize_t done = c->unsent ? 0 : send(c->fd, bytes, count, MSG_NOSIGNAL);
    if (done < 0 && errno != EAGAIN) {
        drop(c);
        return false;
    }
    size_t rest = count - (size_t)(done < 0 ? 0 : done);
    if (rest == 0)
        return true;
    if (!c->unsent)
        watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLRDHUP | EPOLLOUT, c);
    c->unsent = realloc(c->unsent, c->unsent_bytes + rest);
    memcpy(c->unsent + c->unsent_bytes, bytes + count - rest, rest);
    c->unsent_bytes += rest;
    return true;
}

static bool put_unsent(struct connection *c) {
    ssize_t done = send(c->fd, c->unsent + c->unsent_from, c->unsent_bytes - c->unsent_from, MSG_NOSIGNAL);
    if (done < 0 && errno != EAGAIN) {
        drop(c);
        return false;
    }
    c->unsent_from += (size_t)(done < 0 ? 0 : done);
    if (c->unsent_from == c->unsent_bytes) {
        free(c->unsent);
        c->unsent = NULL;
        c->unsent_bytes = c->unsent_from = 0;
        watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLRDHUP, c);
    }
    return true;
}

/* Sends the next event, or the end after the last. False: this stream has nothing more to send now. */
static bool put_next(struct connection *c) {
    if (c->unsent)
        return false;
    if (c->sent < c->chunks) {
        write_digits(event + mark_at + 1, 20, now_ns());
        write_digits(event + mark_at + 22, 7, c->sent++);
        return put(c, event, event_bytes);
    }
    char end[sizeof LAST_EVENT + 16];
    int bytes = snprintf(end, sizeof end, "%zx\r\n%s\r\n0\r\n\r\n", sizeof LAST_EVENT - 1, LAST_EVENT);
    c->streaming = false;
    put(c, end, (size_t)bytes);
    return false;
}

/* The first beat of a paced stream. Each stream has its phase, whenever it was opened, and the phases of any number of
   streams lie evenly over the interval: each is a golden section further than the last. */
static uint64_t first_beat(uint64_t every_ticks) {
    static uint32_t section;
    section += 2654435769u; /* of 2**32 */
    uint64_t phase = section * every_ticks >> 32, now = current_tick();
    return now - now % every_ticks + phase + (phase > now % every_ticks ? 0 : every_ticks);
}

static void begin_stream(struct connection *c, uint32_t chunks, uint64_t every_us) {
    c->streaming = true;
    c->chunks = chunks;
    c->sent = 0;
    c->every_ticks = every_us ? (every_us * 1000 + TICK_NS - 1) / TICK_NS : 0;
    if (!put(c, STREAM_HEAD, sizeof STREAM_HEAD - 1))
        return;
    put_next(c);
    if (c->fd < 0 || !c->streaming)
        return;
    if (!c->every_ticks) {
        list_add(&eager, c);
        return;
    }
    c->due_tick = first_beat(c->every_ticks);
    wheel_add(c);
}

static void put_json(struct connection *c, size_t bytes) {
    static char answer[ANSWER_BYTES + 256];
    char shape[] = "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\","
                   "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%.*s\"},"
                   "\"finish_reason\":\"stop\"}],"
                   "\"usage\":{\"prompt_tokens\":50,\"completion_tokens\":100,\"total_tokens\":150}}";
    size_t around = sizeof shape - 1 - strlen("%.*s");
    size_t text = bytes > around ? bytes - around : 0;
    int head = sprintf(answer,
                       "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_bench\r\n"
                       "Content-Length: %zu\r\n\r\n",
                       around + text);
    int body = sprintf(answer + head, shape, (int)text, filler);
    put(c, answer, (size_t)(head + body));
}

static void put_count(struct connection *c) {
    char body[32], answer[128];
    sprintf(body, "%llu", answers);
    int bytes = sprintf(answer, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    put(c, answer, (size_t)bytes);
}

static unsigned long asked(const char *body, const char *name, unsigned long otherwise) {
    const char *found = strstr(body, name);
    return found ? strtoul(found + strlen(name), NULL, 10) : otherwise;
}

static void answer_request(struct connection *c, const char *body) {
    if (!strncmp(c->request, "GET /count", 10)) {
        put_count(c);
        return;
    }
    answers++;
    if (strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true"))
        begin_stream(c, (uint32_t)asked(body, "chunks=", 10), asked(body, "every_us=", 0));
    else
        put_json(c, asked(body, "bytes=", 1024) % ANSWER_BYTES);
}

static void read_request(struct connection *c) {
    ssize_t count = recv(c->fd, c->request + c->received, REQUEST_BYTES - 1 - c->received, 0);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0 || c->streaming) { /* gone, too long, or a second request inside a stream: no proxy here does that */
        drop(c);
        return;
    }
    c->received += (size_t)count;
    c->request[c->received] = 0;
    char *body = strstr(c->request, "\r\n\r\n");
    if (!body)
        return;
    body += 4;
    char *length = strcasestr(c->request, "\ncontent-length:");
    size_t wanted = length && length < body ? strtoul(length + 16, NULL, 10) : 0;
    if (c->received < (size_t)(body - c->request) + wanted)
        return;
    c->received = 0;
    answer_request(c, body);
}

static void accept_all(int listener) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c)
            give_up("out of memory");
        c->fd = fd;
        send_without_delay(fd);
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP, c);
    }
}

static void run_slot(uint64_t at) {
    struct connection *next;
    for (struct connection *c = wheel[at % WHEEL_SLOTS].first; c; c = next) {
        next = c->next;
        if (c->due_tick > at) /* a later turn of the wheel */
            continue;
        unschedule(c);
        put_next(c); /* a client that does not read loses its beat, not its place */
        if (c->fd < 0 || !c->streaming)
            continue;
        c->due_tick = at + c->every_ticks;
        wheel_add(c);
    }
}

static void run_wheel(void) {
    uint64_t expirations;
    if (read(timer, &expirations, sizeof expirations) < 0)
        return;
    for (uint64_t now = current_tick(); tick < now && on_wheel;)
        run_slot(++tick);
}

static void run_eager(void) {
    struct connection *next;
    for (struct connection *c = eager.first; c; c = next) {
        next = c->next;
        for (int burst = 0; burst < EAGER_BURST && put_next(c); burst++)
            ;
        if (c->fd >= 0 && (c->unsent || !c->streaming))
            unschedule(c);
    }
}

static void serve(struct connection *c, uint32_t events) {
    if (c->fd >= 0 && (events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP)))
        drop(c);
    if (c->fd >= 0 && (events & EPOLLOUT) && c->unsent && put_unsent(c) && !c->unsent && c->streaming && !c->every_ticks)
        list_add(&eager, c);
    if (c->fd >= 0 && (events & EPOLLIN))
        read_request(c);
}

static void prepare_texts(void) {
    char payload[900];
    int bytes = sprintf(payload, EVENT_START "{\"content\":\"" MARK_FORMAT "\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n",
                        0ULL, 0u);
    event_bytes = (size_t)sprintf(event, "%x\r\n%s\r\n", (unsigned)bytes, payload);
    mark_at = (size_t)(strchr(event, MARK_START) - event);
    for (size_t i = 0; i < sizeof filler; i++)
        filler[i] = "lorem ipsum dolor sit amet "[i % 27];
}

int main(int count, char **arguments) {
    if (count != 2)
        give_up("usage: upstream PORT");
    raise_descriptor_limit();
    prepare_texts();
    started_ns = now_ns();
    epoll = epoll_create1(0);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = loopback(atoi(arguments[1]));
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096))
        give_up("upstream: listen");
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, &listener);
    watch(epoll, EPOLL_CTL_ADD, timer, EPOLLIN, &timer);

    struct epoll_event ready[512];
    for (;;) {
        int events = epoll_wait(epoll, ready, 512, eager.first ? 0 : -1);
        for (int i = 0; i < events; i++) {
            void *owner = ready[i].data.ptr;
            if (owner == &listener)
                accept_all(listener);
            else if (owner == &timer)
                run_wheel();
            else
                serve(owner, ready[i].events);
        }
        run_eager();
        free_dropped();
    }
}
