/* The least that can react to a change: a bare loop of inotify and kill, to measure others by.
 *
 * bare FOLDER PID: prints `ready` once it watches, and sends SIGHUP to PID for each rename into it and each file in it
 * that was written.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <unistd.h>

int main(int count, char **argument)
{
    char events[4096];
    if (count != 3)
        return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    pid_t pid = atoi(argument[2]);
    int queue = inotify_init1(IN_CLOEXEC);
    if (queue < 0 || inotify_add_watch(queue, argument[1], IN_MOVED_TO | IN_CLOSE_WRITE) < 0) {
        perror("bare: cannot watch");
        return 1;
    }
    puts("ready");
    fflush(stdout);
    while (read(queue, events, sizeof events) > 0)
        kill(pid, SIGHUP);
    return 1;
}
