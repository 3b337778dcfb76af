/* Changes a file and measures when the process that is to reload it is told.
 *
 * latency FOLDER NAME WAY: starts a target, whose task is called NAME, prints `target PID`, and then does what
 * each line of its input says, by which time somebody watches FOLDER/app.conf and signals the target with
 * SIGHUP. WAY is how the file is changed: `rename` of a new one over it, `write` in place, or `swap` of the
 * kubelet's link `..data`.
 *
 *   single SAMPLES PAUSE_US   Changes it so often, each time when the target was told of the last; prints for
 *                             each one line: nanoseconds, or `missed`; then `extra N`, the signals beyond one a
 *                             change, and `done`.
 *   burst UPDATES SPACING_US  Changes it so often, whatever the target is told, with this between two changes;
 *                             prints `burst SIGNALS NS`, where NS is from the last change until the target has
 *                             read what it has left, or -1 where it has not in a second; and `done`.
 *
 * Times are those before the system call that makes the change visible, and in the handler. Nobody polls: the
 * writer sleeps until the handler wakes it, after it has noted the time, so that processors are left to whoever
 * watches. The pause between two samples varies, so that they do not march in step with a clock tick.
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
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Discarded: the first ones find cold caches. */
enum { WARM_UP = 10, LIMIT_S = 1, LIMIT_OF_BURST_S = 1, ROOM = 4096 };

static struct shared {
    volatile long handled_ns;
    volatile int signals;
    volatile int revision;
    sem_t handled;
    sem_t read;
    sem_t ready;
} *shared;

static char file[ROOM], draft[ROOM], folder[ROOM];
static int number;

static long now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void on_hangup(int signal)
{
    (void)signal;
    shared->handled_ns = now(CLOCK_MONOTONIC);
    shared->signals++;
    sem_post(&shared->handled);
}

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void sleep_us(long us)
{
    struct timespec rest = { us / 1000000, us % 1000000 * 1000 };
    if (us > 0)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, NULL);
}

/* As whoever reloads: until that is seen the next change waits. */
static void read_again(void)
{
    char content[64];
    int revision, opened = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t length = opened < 0 ? 0 : read(opened, content, sizeof content - 1);
    if (opened >= 0)
        close(opened);
    content[length > 0 ? length : 0] = 0;
    if (sscanf(content, "revision %d", &revision) == 1)
        shared->revision = revision;
    sem_post(&shared->read);
}

static pid_t start_target(const char *name)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    struct sigaction action = { .sa_handler = on_hangup };
    sigset_t none, hangup;
    int seen = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_NAME, name);
    sigemptyset(&none);
    sigemptyset(&hangup);
    sigaddset(&hangup, SIGHUP);
    sigprocmask(SIG_BLOCK, &hangup, NULL);
    if (sigaction(SIGHUP, &action, NULL) != 0)
        fail("latency: cannot install a handler");
    sem_post(&shared->ready);
    for (;;) {
        while (seen == shared->signals)
            sigsuspend(&none);
        seen = shared->signals;
        sigprocmask(SIG_UNBLOCK, &hangup, NULL);
        read_again();
        sigprocmask(SIG_BLOCK, &hangup, NULL);
    }
}

static void write_revision(const char *path)
{
    char text[64];
    int opened = open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0644);
    int length = snprintf(text, sizeof text, "revision %d of %d\n", number, getpid());
    if (opened < 0 || write(opened, text, length) != length || close(opened) != 0)
        fail("latency: cannot write a file");
}

/* Each gives the time before the call that makes it visible. */

static long change_by_rename(void)
{
    write_revision(draft);
    long begun = now(CLOCK_MONOTONIC);
    if (rename(draft, file) != 0)
        fail("latency: cannot rename");
    return begun;
}

static long change_by_write(void)
{
    long begun = now(CLOCK_MONOTONIC);
    write_revision(file);
    return begun;
}

/* As the kubelet does (AtomicWriter): a new directory, a link to it, the swap, and the old one goes. */
static long change_by_swap(void)
{
    char old[ROOM], new[ROOM], path[2 * ROOM], link[64], name[ROOM];
    snprintf(old, sizeof old, "%.4000s/..%d", folder, number - 1);
    snprintf(new, sizeof new, "%.4000s/..%d", folder, number);
    snprintf(path, sizeof path, "%.4050s/app.conf", new);
    if (mkdir(new, 0755) != 0)
        fail("latency: cannot make a directory");
    write_revision(path);
    snprintf(link, sizeof link, "..%d", number);
    snprintf(path, sizeof path, "%.4000s/..data_tmp", folder);
    snprintf(name, sizeof name, "%.4000s/..data", folder);
    if (symlink(link, path) != 0)
        fail("latency: cannot make a link");
    long begun = now(CLOCK_MONOTONIC);
    if (rename(path, name) != 0)
        fail("latency: cannot swap a link");
    snprintf(path, sizeof path, "%.4050s/app.conf", old);
    unlink(path);
    rmdir(old);
    return begun;
}

static void become_volume(void)
{
    unlink(file);
    change_by_swap();
    if (symlink("..data/app.conf", file) != 0)
        fail("latency: cannot make a link");
}

static void single(long (*change)(void), int samples, long pause_us)
{
    long *taken = calloc(samples, sizeof *taken);
    unsigned random = getpid();
    int extra = 0;
    for (int i = -WARM_UP; i < samples; i++) {
        struct timespec limit;
        while (sem_trywait(&shared->handled) == 0)
            extra += i > -WARM_UP;
        number++;
        long begun = change();
        clock_gettime(CLOCK_REALTIME, &limit);
        limit.tv_sec += LIMIT_S;
        int is_missed;
        do
            is_missed = sem_timedwait(&shared->handled, &limit) != 0;
        while (is_missed && errno == EINTR);
        if (i >= 0)
            taken[i] = is_missed ? -1 : shared->handled_ns - begun;
        sleep_us(pause_us / 2 + (long)(rand_r(&random) % 1000) * pause_us / 1000);
    }
    for (int i = 0; i < samples; i++)
        if (taken[i] < 0)
            puts("missed");
        else
            printf("%ld\n", taken[i]);
    printf("extra %d\n", extra);
    free(taken);
}

static void burst(long (*change)(void), int updates, long spacing_us)
{
    struct timespec limit;
    int before = shared->signals;
    for (int i = 0; i < updates; i++) {
        if (i > 0)
            sleep_us(spacing_us);
        number++;
        change();
    }
    long over = now(CLOCK_MONOTONIC), after = -1;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += LIMIT_OF_BURST_S;
    while (shared->revision != number)
        if (sem_timedwait(&shared->read, &limit) != 0 && errno == ETIMEDOUT)
            break;
    if (shared->revision == number)
        after = now(CLOCK_MONOTONIC) - over;
    printf("burst %d %ld\n", shared->signals - before, after > 0 || after == -1 ? after : 0);
}

int main(int count, char **argument)
{
    char line[64], word[16];
    int times;
    long us;
    if (count != 4)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(folder, sizeof folder, "%s", argument[1]);
    snprintf(file, sizeof file, "%.4000s/app.conf", folder);
    /* Beside the folder, so that its creation is no event. */
    snprintf(draft, sizeof draft, "%.4000s.draft", folder);
    long (*change)(void) = change_by_rename;
    if (strcmp(argument[3], "write") == 0)
        change = change_by_write;
    if (strcmp(argument[3], "swap") == 0) {
        change = change_by_swap;
        become_volume();
    }
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        fail("latency: cannot map memory");
    sem_init(&shared->handled, 1, 0);
    sem_init(&shared->read, 1, 0);
    sem_init(&shared->ready, 1, 0);

    pid_t target = start_target(argument[2]);
    sem_wait(&shared->ready);
    printf("target %d\n", target);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "%15s %d %ld", word, &times, &us) != 3)
            return 2;
        if (strcmp(word, "single") == 0)
            single(change, times, us);
        else
            burst(change, times, us);
        puts("done");
        fflush(stdout);
    }
    kill(target, SIGKILL);
    return 0;
}
