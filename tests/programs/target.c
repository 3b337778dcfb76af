/* A process that is told to reload, and says on its standard output what reaches it and when.
 *
 * Lines, each written at once:
 *   started PID CONTENT   before there is a handler
 *   ready PID             once there is one (or once there will be none)
 *   signal NS CONTENT     for each signal: CLOCK_BOOTTIME in the handler, content read after it
 *   worker PID            a child that bears the same name
 *   worker-signal PID     a signal that a child should never have got
 *
 * CONTENT is what a program that reloads would read then: the file, or the visible files of a
 * directory, printable and without spaces.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 1 << 16 };

static volatile sig_atomic_t signals;
static volatile unsigned long long handled_ns;

static void on_signal(int number)
{
    struct timespec now;
    (void)number;
    clock_gettime(CLOCK_BOOTTIME, &now);
    handled_ns = now.tv_sec * 1000000000ULL + now.tv_nsec;
    signals++;
}

static void say(const char *line)
{
    if (write(STDOUT_FILENO, line, strlen(line)) < 0)
        exit(1);
}

/* Appends what the file holds, or ! and the errno's name where it cannot be read. */
static void append_file(char *text, const char *path)
{
    char buffer[4096];
    char *end = text + strlen(text);
    ssize_t got;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        sprintf(end, "!%s", strerrorname_np(errno));
        return;
    }
    while ((got = read(file, buffer, sizeof buffer)) > 0)
        for (ssize_t i = 0; i < got && end < text + ROOM - 8; i++) {
            unsigned char byte = buffer[i];
            if (byte > ' ' && byte < 0x7f && byte != '\\')
                *end++ = byte;
            else
                end += sprintf(end, "\\x%02x", byte);
        }
    *end = 0;
    close(file);
}

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void append_content(char *text, const char *path)
{
    struct dirent **entries;
    struct stat status;
    if (stat(path, &status) != 0 || !S_ISDIR(status.st_mode)) {
        append_file(text, path);
        return;
    }
    int count = scandir(path, &entries, is_visible, alphasort);
    for (int i = 0; i < count; i++) {
        char file[4096];
        snprintf(file, sizeof file, "%s/%s", path, entries[i]->d_name);
        sprintf(text + strlen(text), "%s=", entries[i]->d_name);
        append_file(text, file);
        strcat(text, ";");
    }
}

static void report(const char *what, unsigned long long number, const char *path)
{
    static char line[ROOM + 128];
    sprintf(line, "%s %llu ", what, number);
    if (path)
        append_content(line, path);
    strcat(line, "\n");
    say(line);
}

static void handle(int number, void (*handler)(int))
{
    struct sigaction action = { .sa_handler = handler };
    if (sigaction(number, &action, NULL) != 0)
        exit(1);
}

static void work(int number)
{
    char line[64];
    if (fork() != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    handle(number, on_signal);
    snprintf(line, sizeof line, "worker %d\n", getpid());
    say(line);
    for (;;) {
        pause();
        snprintf(line, sizeof line, "worker-signal %d\n", getpid());
        say(line);
    }
}

/* Waits for the signal in place of a handler, in one of the two ways that there are. */
static void wait_for_signal(const sigset_t *set, int descriptor)
{
    int number = 0;
    struct signalfd_siginfo info;
    if (descriptor < 0 ? sigwait(set, &number) != 0
                       : read(descriptor, &info, sizeof info) != sizeof info)
        exit(1);
    on_signal(number);
}

static struct {
    const char *read_path;
    const char *reader;
    const char *end;
    sigset_t open_mask;
} orders;

/* Waits until it is told to go on. */
static void wait_for_word(void)
{
    char byte;
    if (read(STDIN_FILENO, &byte, 1) != 1)
        exit(1);
}

/* Does upon a signal what it is told to: reads, or has a child read, or waits first. */
static void reload(void)
{
    if (strcmp(orders.reader, "late") == 0)
        wait_for_word();
    if (strcmp(orders.reader, "child") == 0 && fork() != 0)
        return;
    report("signal", handled_ns, orders.read_path);
    if (strcmp(orders.reader, "child") == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    if (strcmp(orders.end, "late") == 0)
        wait_for_word();
    if (strcmp(orders.end, "crash") == 0) {
        struct rlimit none = { 0, 0 };
        setrlimit(RLIMIT_CORE, &none);
        abort();
    }
    if (strcmp(orders.end, "never") != 0)
        exit(3);
}

/* Tells of signals for good, in whichever thread. */
static void *attend(void *nothing)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (sig_atomic_t seen = 0;;) {
        sigsuspend(&orders.open_mask);
        if (signals != seen) {
            seen = signals;
            reload();
        }
    }
    return nothing;
}

int main(int count, char **arguments)
{
    const char *read_path = NULL;
    const char *handler = "now";
    int number = SIGHUP;
    int other = 0;
    int workers = 0;
    orders.reader = "itself";
    orders.end = "never";
    for (int i = 1; i + 1 < count; i += 2) {
        if (strcmp(arguments[i], "--read") == 0)
            read_path = arguments[i + 1];
        else if (strcmp(arguments[i], "--handler") == 0)
            handler = arguments[i + 1];
        else if (strcmp(arguments[i], "--signal") == 0)
            number = atoi(arguments[i + 1]);
        else if (strcmp(arguments[i], "--other-signal") == 0)
            other = atoi(arguments[i + 1]);
        else if (strcmp(arguments[i], "--workers") == 0)
            workers = atoi(arguments[i + 1]);
        else if (strcmp(arguments[i], "--reader") == 0)
            orders.reader = arguments[i + 1];
        else if (strcmp(arguments[i], "--end") == 0)
            orders.end = arguments[i + 1];
        else
            return 2;
    }

    /* Whoever started us is gone: nobody is left to read our lines. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigset_t blocked, open_mask;
    sigprocmask(SIG_SETMASK, NULL, &open_mask);
    report("started", getpid(), read_path);

    if (strcmp(handler, "later") == 0) {
        /* Until told so, the signal would kill, as it does any program that has just started. */
        wait_for_word();
        handler = "now";
    }
    sigemptyset(&blocked);
    sigaddset(&blocked, number);
    if (other)
        sigaddset(&blocked, other);
    int waits = strcmp(handler, "signalfd") == 0 || strcmp(handler, "sigwait") == 0;
    int headless = strcmp(handler, "headless") == 0;
    if (waits || headless || strcmp(handler, "now") == 0)
        sigprocmask(SIG_BLOCK, &blocked, NULL);
    if (waits) {
        int descriptor = handler[3] == 'n' ? signalfd(-1, &blocked, SFD_CLOEXEC) : -1;
        report("ready", getpid(), NULL);
        for (;;) {
            wait_for_signal(&blocked, descriptor);
            report("signal", handled_ns, read_path);
        }
    }
    if (headless || strcmp(handler, "now") == 0) {
        handle(number, on_signal);
        if (other)
            handle(other, on_signal);
    } else if (strcmp(handler, "ignore") == 0) {
        handle(number, SIG_IGN);
    }
    for (int i = 0; i < workers; i++)
        work(number);
    report("ready", getpid(), NULL);

    orders.read_path = read_path;
    orders.open_mask = open_mask;
    if (headless) {
        pthread_t other;
        if (pthread_create(&other, NULL, attend, NULL) != 0)
            return 1;
        pthread_exit(NULL);
    }
    attend(NULL);
}
