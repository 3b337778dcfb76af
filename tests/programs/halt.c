/* Stops one thread of another process: halt TID
 *
 * Prints "halted", and lets it go on when its own standard input ends, or it ends itself.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    char byte;
    int status;
    if (count != 2)
        return 2;
    pid_t thread = atoi(arguments[1]);
    if (ptrace(PTRACE_SEIZE, thread, NULL, NULL) != 0
        || ptrace(PTRACE_INTERRUPT, thread, NULL, NULL) != 0
        || waitpid(thread, &status, __WALL) != thread) {
        perror("halt");
        return 1;
    }
    puts("halted");
    fflush(stdout);
    return read(STDIN_FILENO, &byte, 1) < 0;
}
