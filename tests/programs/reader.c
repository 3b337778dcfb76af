/* Hears of changes by inotify or fanotify: reader QUEUE FOR PATH
 *
 * QUEUE is "inotify" or "fanotify"; FOR is "once", to end as soon as anything was read, or "on", to go on
 * until standard input ends. Prints "watching" and then a line for each event: "heard NS NAME", where NS is
 * CLOCK_BOOTTIME after it was read, and NAME a dash where there is none.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <time.h>
#include <unistd.h>

static int listen_to(const char *queue, const char *path)
{
    int fd;
    if (strcmp(queue, "inotify") == 0) {
        fd = inotify_init1(IN_CLOEXEC);
        if (fd >= 0 && inotify_add_watch(fd, path, IN_ALL_EVENTS & ~(IN_OPEN | IN_ACCESS | IN_CLOSE)) >= 0)
            return fd;
    } else {
        fd = fanotify_init(FAN_CLOEXEC, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && fanotify_mark(fd, FAN_MARK_ADD, FAN_MODIFY, AT_FDCWD, path) == 0)
            return fd;
    }
    perror(queue);
    return -1;
}

static void tell(const char *queue, const char *bytes, ssize_t length)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    uint64_t ns = now.tv_sec * 1000000000ULL + now.tv_nsec;
    if (strcmp(queue, "fanotify") == 0) {
        const struct fanotify_event_metadata *event = (const void *)bytes;
        for (; FAN_EVENT_OK(event, length); event = FAN_EVENT_NEXT(event, length)) {
            printf("heard %llu -\n", (unsigned long long)ns);
            close(event->fd);
        }
        return;
    }
    for (ssize_t at = 0; at < length;) {
        const struct inotify_event *event = (const void *)(bytes + at);
        printf("heard %llu %s\n", (unsigned long long)ns, event->len ? event->name : "-");
        at += sizeof *event + event->len;
    }
}

int main(int count, char **arguments)
{
    char bytes[4096] __attribute__((aligned(8)));
    if (count != 4)
        return 2;
    const char *queue = arguments[1];
    int is_once = strcmp(arguments[2], "once") == 0;
    int fd = listen_to(queue, arguments[3]);
    if (fd < 0)
        return 1;
    puts("watching");
    fflush(stdout);
    for (;;) {
        struct pollfd wanted[] = { { fd, POLLIN, 0 }, { STDIN_FILENO, POLLIN, 0 } };
        if (poll(wanted, is_once ? 1 : 2, -1) < 0)
            return 1;
        if (wanted[0].revents) {
            ssize_t length = read(fd, bytes, sizeof bytes);
            if (length <= 0)
                return 1;
            /* Who ends at once leaves nothing to be looked up; what it says comes later. */
            if (is_once)
                close(fd);
            tell(queue, bytes, length);
            fflush(stdout);
            if (is_once)
                return 0;
        } else if (wanted[1].revents) {
            return 0;
        }
    }
}
