/* A WebSocket load: what wrk is for requests, for an echo.
 *
 * Usage: websocket PORT PATH CONNECTIONS SECONDS BYTES
 *
 * Each connection has one message on its way: the next one is sent when the last one
 * has come back. Every byte that comes back is compared with what it must be. The
 * result is one line of JSON, the same as report.lua's; a message counts as a request.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_BYTES = 65535, BUCKETS = 1 << 20 };

struct connection {
    int descriptor;
    size_t received;   /* bytes of the echo so far */
    uint64_t sent_at;  /* microseconds */
};

static uint8_t message[MOST_BYTES + 8], echo[MOST_BYTES + 4];
static size_t message_length, echo_length;
static uint32_t latencies[BUCKETS]; /* by microseconds; the last one takes what is longer */

static uint64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void fail(const char *what) {
    fprintf(stderr, "websocket: %s: %s\n", what, errno ? strerror(errno) : "not as expected");
    exit(1);
}

/* A text message of letters, as the client sends it (masked) and as it must come back. */
static void compose(size_t length) {
    static const uint8_t mask[4] = {0x12, 0x34, 0x56, 0x78};
    size_t head = length < 126 ? 2 : 4;
    message[0] = echo[0] = 0x81;
    message[1] = 0x80 | (uint8_t)(length < 126 ? length : 126);
    echo[1] = message[1] & 0x7f;
    if (head == 4) {
        message[2] = echo[2] = (uint8_t)(length >> 8);
        message[3] = echo[3] = (uint8_t)length;
    }
    memcpy(message + head, mask, 4);
    for (size_t index = 0; index < length; index++) {
        uint8_t letter = (uint8_t)('a' + index % 26);
        echo[head + index] = letter;
        message[head + 4 + index] = letter ^ mask[index % 4];
    }
    echo_length = head + length;
    message_length = head + 4 + length;
}

static int open_socket(int port, const char *path) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1, descriptor = socket(AF_INET, SOCK_STREAM, 0);
    if (descriptor < 0 || connect(descriptor, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    char request[1024], answer[4096];
    int length = snprintf(request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        path, port);
    if (write(descriptor, request, (size_t)length) != length)
        fail("handshake");
    size_t filled = 0;
    while (filled < 4 || memcmp(answer + filled - 4, "\r\n\r\n", 4) != 0) {
        /* Byte by byte: what follows the head is not of the handshake. */
        ssize_t got = filled < sizeof answer ? read(descriptor, answer + filled, 1) : 0;
        if (got <= 0)
            fail("answer to the handshake");
        filled += (size_t)got;
    }
    if (filled < 12 || memcmp(answer, "HTTP/1.1 101", 12) != 0) {
        errno = 0;
        fail("status of the handshake");
    }
    return descriptor;
}

static void send_message(struct connection *connection) {
    connection->received = 0;
    connection->sent_at = now_us();
    if (write(connection->descriptor, message, message_length) != (ssize_t)message_length)
        fail("write");
}

static unsigned percentile(uint64_t count, double share) {
    uint64_t wanted = (uint64_t)((double)count * share), seen = 0;
    for (unsigned us = 0; us < BUCKETS; us++)
        if ((seen += latencies[us]) > wanted)
            return us;
    return BUCKETS - 1;
}

int main(int count, char **arguments) {
    if (count != 6) {
        fprintf(stderr, "usage: websocket PORT PATH CONNECTIONS SECONDS BYTES\n");
        return 2;
    }
    int port = atoi(arguments[1]), connections = atoi(arguments[3]);
    int seconds = atoi(arguments[4]), bytes = atoi(arguments[5]);
    if (connections < 1 || seconds < 1 || bytes < 0 || bytes > MOST_BYTES) {
        fprintf(stderr, "websocket: out of range\n");
        return 2;
    }
    compose((size_t)bytes);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    int poller = epoll_create1(0);
    if (!all || poller < 0)
        fail("set up");
    for (int index = 0; index < connections; index++) {
        all[index].descriptor = open_socket(port, arguments[2]);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[index]};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, all[index].descriptor, &event) < 0)
            fail("epoll");
    }
    uint64_t began = now_us(), end = began + (uint64_t)seconds * 1000000, now = began, messages = 0;
    for (int index = 0; index < connections; index++)
        send_message(&all[index]);
    struct epoll_event events[256];
    uint8_t buffer[sizeof echo];
    while (now < end) {
        int ready = epoll_wait(poller, events, 256, 1000);
        if (ready < 0 && errno != EINTR)
            fail("epoll");
        now = now_us();
        for (int index = 0; index < ready; index++) {
            struct connection *connection = events[index].data.ptr;
            ssize_t got = read(connection->descriptor, buffer, echo_length - connection->received);
            if (got <= 0)
                fail("read");
            if (memcmp(buffer, echo + connection->received, (size_t)got) != 0) {
                errno = 0;
                fail("echo");
            }
            connection->received += (size_t)got;
            if (connection->received == echo_length) {
                uint64_t took = now - connection->sent_at;
                latencies[took < BUCKETS ? took : BUCKETS - 1]++;
                messages++;
                send_message(connection);
            }
        }
    }
    printf("{\"requests\": %llu, \"duration_us\": %llu, \"p50_us\": %u, \"p99_us\": %u, "
           "\"socket_errors\": 0, \"bad_statuses\": 0}\n",
        (unsigned long long)messages, (unsigned long long)(now - began),
        percentile(messages, 0.5), percentile(messages, 0.99));
    return messages ? 0 : 1;
}
