/* A server that reloads as nginx does, for machines that have none.
 *
 * stand-in PORT FOLDER...: reads the lines `location = PATH { return 200 "TEXT"; }` of every file
 * *.conf in the folders, and answers PATH with TEXT. On SIGHUP the master reads again, starts new
 * workers, and ends the old ones.
 *
 * stand-in -t FOLDER...: says which line is none of those.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <glob.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 2, PAGES = 64 };

static struct page {
    char path[128], text[128];
} pages[PAGES];
static int count;

static int load(int folders, char **folder)
{
    int mistakes = 0;
    count = 0;
    for (int i = 0; i < folders; i++) {
        char pattern[4096], line[512];
        glob_t found;
        snprintf(pattern, sizeof pattern, "%s/*.conf", folder[i]);
        if (glob(pattern, 0, NULL, &found) != 0)
            continue;
        for (size_t j = 0; j < found.gl_pathc; j++) {
            FILE *file = fopen(found.gl_pathv[j], "r");
            while (file && count < PAGES && fgets(line, sizeof line, file)) {
                int is_page = sscanf(line, " location = %127s { return 200 \"%127[^\"]\"",
                                     pages[count].path, pages[count].text) == 2;
                if (!is_page && mistakes++ == 0)
                    fprintf(stderr, "stand-in: %s has a line that is no page: %s",
                            found.gl_pathv[j], line);
                count += is_page;
            }
            if (file)
                fclose(file);
        }
        globfree(&found);
    }
    return mistakes;
}

static void serve(int listener)
{
    for (;;) {
        char request[1024] = "", path[128] = "", answer[512];
        int connection = accept(listener, NULL, NULL);
        if (connection < 0)
            continue;
        if (read(connection, request, sizeof request - 1) > 0)
            sscanf(request, "GET %127s", path);
        const char *text = NULL;
        for (int i = 0; i < count; i++)
            if (strcmp(pages[i].path, path) == 0)
                text = pages[i].text;
        int length = snprintf(answer, sizeof answer, "HTTP/1.0 %s\r\n\r\n%s\n",
                              text ? "200 OK" : "404 Not Found", text ? text : "");
        if (write(connection, answer, length) < 0)
            perror("stand-in: cannot answer");
        close(connection);
    }
}

static void start(int listener, pid_t *workers)
{
    for (int i = 0; i < WORKERS; i++) {
        workers[i] = fork();
        if (workers[i] == 0) {
            sigset_t none;
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            sigemptyset(&none);
            sigprocmask(SIG_SETMASK, &none, NULL);
            serve(listener);
        }
    }
}

static void on_hangup(int number)
{
    (void)number;
}

int main(int arguments, char **argument)
{
    if (arguments < 3)
        return 2;
    if (strcmp(argument[1], "-t") == 0)
        return load(arguments - 2, argument + 2) != 0;
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(atoi(argument[1])) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 64) != 0) {
        perror("stand-in: cannot listen");
        return 1;
    }

    /* A handler, so that the agent sees that the signal is caught; taken by sigwait. */
    sigset_t hangup;
    signal(SIGHUP, on_hangup);
    sigemptyset(&hangup);
    sigaddset(&hangup, SIGHUP);
    sigprocmask(SIG_BLOCK, &hangup, NULL);

    pid_t workers[WORKERS], old[WORKERS];
    load(arguments - 2, argument + 2);
    start(listener, workers);
    for (int number; sigwait(&hangup, &number) == 0;) {
        memcpy(old, workers, sizeof old);
        load(arguments - 2, argument + 2);
        start(listener, workers);
        for (int i = 0; i < WORKERS; i++) {
            kill(old[i], SIGTERM);
            waitpid(old[i], NULL, 0);
        }
    }
    return 1;
}
