/* Measures what operations on files that nobody watches cost.
 *
 * cost measure FOLDER NAME: for each line on its input, which names an operation or says `all`, times
 *   it in a few batches, and prints `OPERATION NS TIMES`: the median of the batches, per operation, and
 *   how often it was done in all; then `done`.
 * cost busy FOLDER SECONDS: operates on files as fast as it can, and prints how often it did.
 * cost nothing: ends.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 9 };

static char log_path[4096], page_path[4096], one_path[4096], other_path[4096];
static const char text[] = "127.0.0.1 - - [23/Nov/2026:11:50:00 +0000] \"GET / HTTP/1.1\" 200\n";
static const char *program;
static int log_file, page_file, null_file;

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void check(int is_fine, const char *what)
{
    if (!is_fine) {
        perror(what);
        exit(1);
    }
}

static void getppid_once(int i)
{
    (void)i;
    syscall(SYS_getppid);
}

static void append(int i)
{
    (void)i;
    check(write(log_file, text, sizeof text - 1) > 0, "cost: cannot append");
}

static void overwrite(int i)
{
    (void)i;
    check(pwrite(page_file, text, sizeof text - 1, 0) > 0, "cost: cannot overwrite");
}

static void rename_once(int i)
{
    check(rename(i & 1 ? other_path : one_path, i & 1 ? one_path : other_path) == 0,
          "cost: cannot rename");
}

static void open_once(int i)
{
    (void)i;
    int file = open(page_path, O_RDWR | O_CLOEXEC);
    check(file >= 0, "cost: cannot open");
    close(file);
}

static void discard(int i)
{
    (void)i;
    check(write(null_file, text, sizeof text - 1) > 0, "cost: cannot write to /dev/null");
}

/* A child that becomes another program and ends. */
static void spawn(int i)
{
    (void)i;
    int status = 1;
    pid_t child = fork();
    check(child >= 0, "cost: cannot fork");
    if (child == 0) {
        execl(program, program, "nothing", (char *)NULL);
        _exit(1);
    }
    check(waitpid(child, &status, 0) == child && status == 0, "cost: cannot run a program");
}

/* Two thousand instructions, where we know how to say that; by them it is seen what the clock counts. */
static void loop(int i)
{
    (void)i;
#if defined(__x86_64__)
    unsigned long count = 1000;
    __asm__ volatile("1: dec %0\n\tjnz 1b" : "+r"(count) : : "cc");
#elif defined(__aarch64__)
    unsigned long count = 1000;
    __asm__ volatile("1: subs %0, %0, #1\n\tb.ne 1b" : "+r"(count) : : "cc");
#endif
}

static const struct operation {
    const char *name;
    void (*run)(int);
    int times; /* even, so that a renamed file has its name again */
} operations[] = {
    { "loop", loop, 2000 },
    { "getppid", getppid_once, 100000 },
    { "null", discard, 50000 },
    { "append", append, 20000 },
    { "overwrite", overwrite, 20000 },
    { "rename", rename_once, 4000 },
    { "open", open_once, 10000 },
    { "spawn", spawn, 20 },
};

enum { OPERATIONS = sizeof operations / sizeof *operations };

static int by_size(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void measure(void)
{
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        for (int i = 0; i < OPERATIONS; i++) {
            if (strcmp(line, "all") != 0 && strcmp(line, operations[i].name) != 0)
                continue;
            double took[BATCHES];
            for (int batch = 0; batch < BATCHES; batch++) {
                long begun = now();
                for (int j = 0; j < operations[i].times; j++)
                    operations[i].run(j);
                took[batch] = (double)(now() - begun) / operations[i].times;
                check(ftruncate(log_file, 0) == 0, "cost: cannot truncate");
            }
            qsort(took, BATCHES, sizeof *took, by_size);
            printf("%s %.1f %d\n", operations[i].name, took[BATCHES / 2],
                   BATCHES * operations[i].times);
        }
        puts("done");
        fflush(stdout);
    }
}

static void busy(int seconds)
{
    long end = now() + seconds * 1000000000L, done = 0;
    while (now() < end) {
        for (int i = 0; i < 20; i++) {
            append(i);
            overwrite(i);
            rename_once(i);
            open_once(i);
        }
        check(ftruncate(log_file, 0) == 0, "cost: cannot truncate");
        done += 81;
    }
    printf("%ld\n", done);
}

int main(int count, char **argument)
{
    if (count == 2)
        return 0;
    if (count != 4)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    program = argument[0];
    snprintf(log_path, sizeof log_path, "%s/log", argument[2]);
    snprintf(page_path, sizeof page_path, "%s/page", argument[2]);
    snprintf(one_path, sizeof one_path, "%s/one", argument[2]);
    snprintf(other_path, sizeof other_path, "%s/other", argument[2]);
    log_file = open(log_path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);
    page_file = open(page_path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    null_file = open("/dev/null", O_WRONLY | O_CLOEXEC);
    int one = open(one_path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    check(log_file >= 0 && page_file >= 0 && null_file >= 0 && one >= 0, "cost: cannot create files");
    close(one);
    if (strcmp(argument[1], "busy") == 0) {
        busy(atoi(argument[3]));
    } else {
        prctl(PR_SET_NAME, argument[3]);
        measure();
    }
    return 0;
}
