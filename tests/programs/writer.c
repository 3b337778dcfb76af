/* Changes a file in a given way: writer WAY PATH STAGE TEXT
 *
 * STAGE is a directory of the same filesystem that nobody watches: what is prepared is prepared
 * there, so that the way is the only thing that happens at PATH. Prints "pid PID" for the process that
 * does it, the last such line counts. Exits with 0 when it is done, with 3 where the filesystem or the
 * kernel does not support the way, and with 1 where it failed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/aio_abi.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *path;
static const char *stage;
static const char *text;
static size_t length;

static void fail(const char *call)
{
    int error = errno;
    fprintf(stderr, "%s %s: %s\n", call, path, strerror(error));
    switch (error) {
    case EOPNOTSUPP:
    case ENOSYS:
    case ENOTTY:
    case EXDEV:
        exit(3);
    default:
        exit(1);
    }
}

static long must(long result, const char *call)
{
    if (result < 0)
        fail(call);
    return result;
}

static int opened(int flags)
{
    return must(open(path, flags | O_CLOEXEC, 0644), "open");
}

static void put(int file)
{
    must(write(file, text, length), "write");
}

static const char *staged_name(const char *name)
{
    static char full[4096];
    snprintf(full, sizeof full, "%s/%s", stage, name);
    return full;
}

/* Makes a file with the text in the stage. */
static const char *staged(void)
{
    const char *name = staged_name("staged");
    int file = must(open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), "open staged");
    put(file);
    close(file);
    return name;
}

static int staged_for_reading(void)
{
    return must(open(staged(), O_RDONLY | O_CLOEXEC), "open staged");
}

/* Waits as long as this is on a machine that needs no more patience than usual, as `pause_here` does. */
static void pause_here(unsigned milliseconds)
{
    const unsigned usual = 20;
    const char *said = getenv("RELOAD_TEST_PATIENCE");
    unsigned patience = said ? strtoul(said, NULL, 10) : usual;
    unsigned long long all = milliseconds * ((patience + usual - 1) / usual);
    struct timespec time = { .tv_sec = all / 1000, .tv_nsec = all % 1000 * 1000 * 1000 };
    nanosleep(&time, NULL);
}

static off_t size_of(int file)
{
    struct stat status;
    must(fstat(file, &status), "fstat");
    return status.st_size;
}

/* Ways to write to the file that is there. */

static void way_write(void)
{
    int file = opened(O_WRONLY);
    put(file);
    close(file);
}

static void way_rewrite(void)
{
    int file = opened(O_WRONLY | O_TRUNC);
    put(file);
    close(file);
}

static void way_append(void)
{
    int file = opened(O_WRONLY | O_APPEND);
    put(file);
    close(file);
}

static void way_pwrite(void)
{
    int file = opened(O_WRONLY);
    must(pwrite(file, text, length, 1), "pwrite");
    close(file);
}

static void way_writev(void)
{
    int file = opened(O_WRONLY);
    struct iovec parts[] = { { (void *)text, 1 }, { (void *)(text + 1), length - 1 } };
    must(writev(file, parts, 2), "writev");
    close(file);
}

static void way_pwritev2(void)
{
    int file = opened(O_WRONLY);
    struct iovec part = { (void *)text, length };
    must(pwritev2(file, &part, 1, 2, RWF_DSYNC), "pwritev2");
    close(file);
}

static void way_sendfile(void)
{
    int from = staged_for_reading();
    int file = opened(O_WRONLY);
    must(sendfile(file, from, NULL, length), "sendfile");
    close(file);
}

static void way_splice(void)
{
    int ends[2];
    int file = opened(O_WRONLY);
    must(pipe(ends), "pipe");
    put(ends[1]);
    must(splice(ends[0], NULL, file, NULL, length, 0), "splice");
    close(file);
}

static void way_copy_file_range(void)
{
    int from = staged_for_reading();
    int file = opened(O_WRONLY);
    must(copy_file_range(from, NULL, file, NULL, length, 0), "copy_file_range");
    close(file);
}

static void way_ficlone(void)
{
    int from = staged_for_reading();
    int file = opened(O_WRONLY);
    must(ioctl(file, FICLONE, from), "FICLONE");
    close(file);
}

static void way_dup(void)
{
    int file = opened(O_WRONLY);
    int copy = must(dup(file), "dup");
    must(write(file, text, 1), "write");
    close(file);
    must(write(copy, text + 1, length - 1), "write");
    close(copy);
}

/* A child inherits the descriptor, and writes when its parent has long closed it. */
static void way_inherited(void)
{
    int ends[2];
    int status;
    char byte;
    int file = opened(O_WRONLY);
    must(pipe(ends), "pipe");
    pid_t child = must(fork(), "fork");
    if (child == 0) {
        close(ends[1]);
        dprintf(STDOUT_FILENO, "pid %d\n", getpid());
        must(read(ends[0], &byte, 1), "read");
        put(file);
        _exit(0);
    }
    close(file);
    close(ends[1]);
    must(waitpid(child, &status, 0), "waitpid");
    exit(status == 0 ? 0 : 1);
}

enum end { CLOSED_LAST, CLOSED_FIRST, SYNCED };

static void store(enum end end)
{
    int file = opened(O_RDWR);
    char *map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map == MAP_FAILED)
        fail("mmap");
    if (size_of(opened(O_RDONLY)) < (off_t)length) {
        errno = EINVAL;
        fail("the file is too short to be stored to");
    }
    if (end == CLOSED_FIRST) {
        /* Long enough that whoever has heard of the descriptor has looked. */
        close(file);
        pause_here(500);
    }
    memcpy(map, text, length);
    if (end != CLOSED_FIRST)
        close(file);
    if (end == SYNCED)
        must(msync(map, length, MS_SYNC), "msync");
    must(munmap(map, length), "munmap");
}

/* Maps the file for reading, and makes that a mapping for writing: nobody is asked when it is mapped. */
static char *unlocked_map(int file)
{
    char *map = mmap(NULL, length, PROT_READ, MAP_SHARED, file, 0);
    if (map == MAP_FAILED)
        fail("mmap");
    must(mprotect(map, length, PROT_READ | PROT_WRITE), "mprotect");
    return map;
}

static void way_mprotect(void)
{
    int file = opened(O_RDWR);
    char *map = unlocked_map(file);
    memcpy(map, text, length);
    close(file);
    must(munmap(map, length), "munmap");
}

static void way_mmap(void)
{
    store(CLOSED_LAST);
}

static void way_mmap_closed(void)
{
    store(CLOSED_FIRST);
}

static void way_mmap_msync(void)
{
    store(SYNCED);
}

/* Has the kernel carry out one request, by a ring of its own. */
static void submit(struct io_uring_sqe request, const char *call)
{
    struct io_uring_params params = { 0 };
    int ring = must(syscall(SYS_io_uring_setup, 1, &params), "io_uring_setup");
    size_t size = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
    char *queue = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    struct io_uring_sqe *entry = mmap(NULL, sizeof *entry, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
                                      IORING_OFF_SQES);
    size_t done_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    char *done = mmap(NULL, done_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    if (queue == MAP_FAILED || entry == MAP_FAILED || done == MAP_FAILED)
        fail("mmap");
    *entry = request;
    uint32_t *tail = (uint32_t *)(queue + params.sq_off.tail);
    uint32_t *array = (uint32_t *)(queue + params.sq_off.array);
    array[0] = 0;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    must(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0), "io_uring_enter");
    struct io_uring_cqe *completion = (struct io_uring_cqe *)(done + params.cq_off.cqes);
    if (completion->res < 0) {
        errno = -completion->res;
        fail(call);
    }
}

/* Leaves a child with what is open here, which has it open until the test takes the file "held" away. */
static void hold(void)
{
    const char *held = staged_name("held");
    close(must(open(held, O_WRONLY | O_CREAT | O_CLOEXEC, 0644), "open held"));
    if (must(fork(), "fork") > 0)
        return;
    close(STDOUT_FILENO);
    close(STDERR_FILENO);
    alarm(60);
    while (access(held, F_OK) == 0)
        usleep(10000);
    _exit(0);
}

static void way_write_held(void)
{
    put(opened(O_WRONLY));
    hold();
}

static void way_mmap_held(void)
{
    char *map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, opened(O_RDWR), 0);
    if (map == MAP_FAILED)
        fail("mmap");
    memcpy(map, text, length);
    hold();
}

static void way_mprotect_held(void)
{
    memcpy(unlocked_map(opened(O_RDWR)), text, length);
    hold();
}

static void way_io_uring(void)
{
    int file = opened(O_WRONLY);
    submit((struct io_uring_sqe){
        .opcode = IORING_OP_WRITE,
        .fd = file,
        .addr = (uintptr_t)text,
        .len = length,
    }, "IORING_OP_WRITE");
    close(file);
}

static void way_aio(void)
{
    aio_context_t context = 0;
    struct io_event event;
    must(syscall(SYS_io_setup, 1, &context), "io_setup");
    int file = opened(O_WRONLY);
    struct iocb request = {
        .aio_lio_opcode = IOCB_CMD_PWRITE,
        .aio_fildes = file,
        .aio_buf = (uintptr_t)text,
        .aio_nbytes = length,
    };
    struct iocb *requests[] = { &request };
    must(syscall(SYS_io_submit, context, 1, requests), "io_submit");
    must(syscall(SYS_io_getevents, context, 1, 1, &event, NULL), "io_getevents");
    close(file);
}

/* Ways to change the size. */

/* Past the page cache: whole blocks, with zeros where the text has ended. */
static void way_direct(void)
{
    enum { BLOCK = 4096 };
    static char block[BLOCK] __attribute__((aligned(BLOCK)));
    int file = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    /* tmpfs before Linux 6.6. */
    if (file < 0 && errno == EINVAL)
        errno = EOPNOTSUPP;
    must(file, "open");
    memcpy(block, text, length);
    must(pwrite(file, block, BLOCK, 0), "pwrite");
    close(file);
}

/* By another name of the file, in the stage, where the test has put it. */
static void way_other_name(void)
{
    path = staged_name("other");
    way_write();
}

/* By another mount of the filesystem, in a mount namespace of our own, which ends with us. */
static void way_other_mount(void)
{
    static char from[4096];
    static char to[8192];
    const char *mounted = staged_name("mounted");
    snprintf(from, sizeof from, "%s", path);
    if (mkdir(mounted, 0755) != 0 && errno != EEXIST)
        fail("mkdir");
    must(unshare(CLONE_NEWNS), "unshare");
    must(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "mount private");
    must(mount(dirname(from), mounted, NULL, MS_BIND, NULL), "mount --bind");
    snprintf(to, sizeof to, "%s/%s", mounted, strrchr(path, '/') + 1);
    path = to;
    way_write();
}

static void way_truncate(void)
{
    struct stat status;
    must(stat(path, &status), "stat");
    must(truncate(path, status.st_size - 1), "truncate");
}

static void way_ftruncate(void)
{
    int file = opened(O_WRONLY);
    must(ftruncate(file, size_of(file) - 1), "ftruncate");
    close(file);
}

static void way_o_trunc(void)
{
    close(opened(O_WRONLY | O_TRUNC));
}

static void way_fallocate(void)
{
    int file = opened(O_WRONLY);
    must(fallocate(file, 0, size_of(file), 8), "fallocate");
    close(file);
}

static void way_punch_hole(void)
{
    int file = opened(O_WRONLY);
    must(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4), "punch a hole");
    close(file);
}

/* Ways to put another file in its place. */

static void way_rename(void)
{
    must(rename(staged(), path), "rename");
}

static void way_io_uring_rename(void)
{
    submit((struct io_uring_sqe){
        .opcode = IORING_OP_RENAMEAT,
        .fd = AT_FDCWD,
        .addr = (uintptr_t)staged(),
        .len = AT_FDCWD,
        .addr2 = (uintptr_t)path,
    }, "IORING_OP_RENAMEAT");
}

static void way_exchange(void)
{
    must(renameat2(AT_FDCWD, staged(), AT_FDCWD, path, RENAME_EXCHANGE), "renameat2");
}

static void way_symlink_swap(void)
{
    char content[4096];
    snprintf(content, sizeof content, "%s/content-%d", stage, getpid());
    must(rename(staged(), content), "rename staged");
    must(symlink(content, staged_name("link")), "symlink");
    must(rename(staged_name("link"), path), "rename link");
}

/* The directory of the file changes places with one that holds another file of that name. */
static void way_directory(void)
{
    static char old[4096];
    static char new[4096];
    char file[8192];
    snprintf(old, sizeof old, "%s", path);
    snprintf(new, sizeof new, "%s", staged_name("directory"));
    if (mkdir(new, 0755) != 0 && errno != EEXIST)
        fail("mkdir");
    snprintf(file, sizeof file, "%s/%s", new, strrchr(path, '/') + 1);
    must(rename(staged(), file), "rename staged");
    must(renameat2(AT_FDCWD, new, AT_FDCWD, dirname(old), RENAME_EXCHANGE), "renameat2");
}

/* Another file is mounted over it, and stays there. */
static void way_mount(void)
{
    must(mount(staged(), path, NULL, MS_BIND, NULL), "mount --bind");
}

/* Lets everybody see that there is no such file: otherwise it depends on luck who does. */
static void vanish(void)
{
    must(unlink(path), "unlink");
    pause_here(200);
}

static void way_link(void)
{
    const char *from = staged();
    vanish();
    must(link(from, path), "link");
    must(unlink(from), "unlink staged");
}

static void way_tmpfile(void)
{
    char link_path[64];
    int file = must(open(stage, O_WRONLY | O_TMPFILE | O_CLOEXEC, 0644), "open O_TMPFILE");
    put(file);
    snprintf(link_path, sizeof link_path, "/proc/self/fd/%d", file);
    vanish();
    must(linkat(AT_FDCWD, link_path, AT_FDCWD, path, AT_SYMLINK_FOLLOW), "linkat");
    close(file);
}

static void way_recreate(void)
{
    vanish();
    int file = opened(O_WRONLY | O_CREAT | O_EXCL);
    put(file);
    close(file);
}

/* Ways that fail, and so change nothing. They exit with 0 when they have failed as they should. */

static void must_fail(int result, int error, const char *call)
{
    if (result < 0 && errno == error)
        return;
    fprintf(stderr, "%s %s: result %d, errno %d instead of %d\n", call, path, result, errno, error);
    exit(1);
}

static void way_rename_of_nothing(void)
{
    must_fail(rename(staged_name("nothing"), path), ENOENT, "rename");
}

static void way_rename_no_replace(void)
{
    must_fail(renameat2(AT_FDCWD, staged(), AT_FDCWD, path, RENAME_NOREPLACE), EEXIST, "renameat2");
}

static void way_rename_of_a_directory(void)
{
    must_fail(rename(stage, path), ENOTDIR, "rename");
}

static void way_rename_from_elsewhere(void)
{
    must_fail(rename("/proc/self/status", path), EXDEV, "rename");
}

static void way_exclusive_create(void)
{
    must_fail(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644), EEXIST, "open");
}

static void way_link_over(void)
{
    must_fail(link(staged(), path), EEXIST, "link");
}

static void way_read(void)
{
    char byte;
    int file = opened(O_RDONLY);
    must(read(file, &byte, 1), "read");
    close(file);
}

static const struct {
    const char *name;
    void (*way)(void);
} ways[] = {
    { "write", way_write },
    { "copy_up", way_write },
    { "rewrite", way_rewrite },
    { "append", way_append },
    { "pwrite", way_pwrite },
    { "writev", way_writev },
    { "pwritev2", way_pwritev2 },
    { "sendfile", way_sendfile },
    { "splice", way_splice },
    { "copy_file_range", way_copy_file_range },
    { "ficlone", way_ficlone },
    { "dup", way_dup },
    { "inherited", way_inherited },
    { "write_held", way_write_held },
    { "mmap_held", way_mmap_held },
    { "mprotect_held", way_mprotect_held },
    { "mmap", way_mmap },
    { "mmap_closed", way_mmap_closed },
    { "mmap_msync", way_mmap_msync },
    { "mprotect", way_mprotect },
    { "io_uring", way_io_uring },
    { "aio", way_aio },
    { "direct", way_direct },
    { "other_name", way_other_name },
    { "other_mount", way_other_mount },
    { "truncate", way_truncate },
    { "ftruncate", way_ftruncate },
    { "o_trunc", way_o_trunc },
    { "fallocate", way_fallocate },
    { "punch_hole", way_punch_hole },
    { "rename", way_rename },
    { "io_uring_rename", way_io_uring_rename },
    { "exchange", way_exchange },
    { "directory", way_directory },
    { "mount", way_mount },
    { "symlink_swap", way_symlink_swap },
    { "link", way_link },
    { "tmpfile", way_tmpfile },
    { "recreate", way_recreate },
    { "rename_of_nothing", way_rename_of_nothing },
    { "rename_no_replace", way_rename_no_replace },
    { "rename_of_a_directory", way_rename_of_a_directory },
    { "rename_from_elsewhere", way_rename_from_elsewhere },
    { "exclusive_create", way_exclusive_create },
    { "link_over", way_link_over },
    { "read", way_read },
};

int main(int count, char **arguments)
{
    if (count != 5)
        return 2;
    path = arguments[2];
    stage = arguments[3];
    text = arguments[4];
    length = strlen(text);
    dprintf(STDOUT_FILENO, "pid %d\n", getpid());
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (strcmp(arguments[1], ways[i].name) == 0) {
            ways[i].way();
            return 0;
        }
    return 2;
}
