/* Measures the time from rename(2) of a file to the handler of the process that is told of it.
 *
 * latency FOLDER NAME SAMPLES PAUSE_US: starts a target, whose task is called NAME, prints `target
 * PID`, and waits for a line on its input, by which time somebody watches FOLDER/app.conf and
 * signals the target with SIGHUP. Then renames a new file over that one, SAMPLES times, and prints
 * for each one line: nanoseconds, or `missed`. At last `extra N`, the signals beyond one a change.
 *
 * Nobody polls: the renamer sleeps until the handler wakes it, after it has noted the time, so that
 * processors are left to whoever watches. The pause between two samples varies, so that they do not
 * march in step with a clock tick.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* Discarded: the first ones find cold caches. */
enum { WARM_UP = 10, LIMIT_S = 1 };

static struct shared {
    volatile long handled_ns;
    sem_t handled;
    sem_t ready;
} *shared;

static long now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void on_hangup(int number)
{
    (void)number;
    shared->handled_ns = now(CLOCK_MONOTONIC);
    sem_post(&shared->handled);
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* As whoever reloads: until that is seen, or it is not for some seconds, the next change waits. */
static void read_again(const char *path)
{
    char content[64];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || read(file, content, sizeof content) < 0)
        fail("latency: cannot read a file");
    close(file);
}

static pid_t start_target(const char *name, const char *path)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    struct sigaction action = { .sa_handler = on_hangup };
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, name);
    if (sigaction(SIGHUP, &action, NULL) != 0)
        fail("latency: cannot install a handler");
    sem_post(&shared->ready);
    for (;;) {
        pause();
        read_again(path);
    }
}

static void write_draft(const char *draft, int revision)
{
    char text[64];
    int file = open(draft, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
    int length = snprintf(text, sizeof text, "revision %d of %d\n", revision, getpid());
    if (file < 0 || write(file, text, length) != length || close(file) != 0)
        fail("latency: cannot write a file");
}

int main(int count, char **argument)
{
    char file[4096], draft[4096], line[64];
    if (count != 5)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int samples = atoi(argument[3]);
    long pause_ns = atol(argument[4]) * 1000;
    snprintf(file, sizeof file, "%s/app.conf", argument[1]);
    /* Beside the folder, so that its creation is no event. */
    snprintf(draft, sizeof draft, "%s.draft", argument[1]);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        fail("latency: cannot map memory");
    sem_init(&shared->handled, 1, 0);
    sem_init(&shared->ready, 1, 0);

    pid_t target = start_target(argument[2], file);
    sem_wait(&shared->ready);
    printf("target %d\n", target);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return 1;

    long *taken = calloc(samples, sizeof *taken);
    unsigned random = getpid();
    int extra = 0;
    for (int i = -WARM_UP; i < samples; i++) {
        struct timespec limit, rest = { 0 };
        while (sem_trywait(&shared->handled) == 0)
            extra++;
        write_draft(draft, i);
        long begun = now(CLOCK_MONOTONIC);
        if (rename(draft, file) != 0)
            fail("latency: cannot rename");
        clock_gettime(CLOCK_REALTIME, &limit);
        limit.tv_sec += LIMIT_S;
        int is_missed;
        do
            is_missed = sem_timedwait(&shared->handled, &limit) != 0;
        while (is_missed && errno == EINTR);
        if (i >= 0)
            taken[i] = is_missed ? -1 : shared->handled_ns - begun;
        rest.tv_nsec = pause_ns / 2 + (long)(rand_r(&random) % 1000) * (pause_ns / 1000);
        clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, NULL);
    }
    for (int i = 0; i < samples; i++)
        if (taken[i] < 0)
            puts("missed");
        else
            printf("%ld\n", taken[i]);
    printf("extra %d\n", extra);
    fflush(stdout);
    kill(target, SIGKILL);
    return 0;
}
