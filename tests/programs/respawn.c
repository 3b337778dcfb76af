/* Starts a program with a given pid: respawn PID PROGRAM ARGUMENTS...
 *
 * Pids are handed out again, but not on demand. clone3(2) with set_tid (Linux 5.5) asks for one.
 */
#define _GNU_SOURCE
#include <linux/sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    if (count < 3)
        return 2;
    pid_t wanted = atoi(arguments[1]);
    struct clone_args request = {
        .exit_signal = SIGCHLD,
        .set_tid = (uintptr_t)&wanted,
        .set_tid_size = 1,
    };
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    long pid = syscall(SYS_clone3, &request, sizeof request);
    if (pid < 0) {
        perror("clone3");
        return 1;
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execv(arguments[2], arguments + 2);
        perror(arguments[2]);
        _exit(1);
    }
    int status;
    waitpid(pid, &status, 0);
    /* Pass on how it ended, as a shell does. */
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
