#include "cmd/signals.h"

#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

enum { ECHO_MS = 300 };

static volatile sig_atomic_t g_signal;    /* the signal that asks to stop; 0: none */
static volatile sig_atomic_t g_signal_ms; /* when SIGINT came first, modulo 2^20 */

// clock_gettime() may be called in a signal handler (POSIX.1-2008, 2.4.3).
static int now_ms(void) {
    struct timespec ts = {.tv_sec = 0};
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int)((ts.tv_sec % 1000000 * 1000 + ts.tv_nsec / 1000000) & 0xFFFFF);
}

// timeout(1) and launchers that pass Ctrl-C on deliver one SIGINT twice, to the process and to its
// group: the echo must not count as the second one, which gives up unsaved work.
static void on_signal(int number) {
    if (number == SIGINT && g_signal == SIGINT) {
        if (((now_ms() - g_signal_ms) & 0xFFFFF) > ECHO_MS) _exit(130);
        return;
    }
    if (number == SIGINT) g_signal_ms = now_ms();
    if (g_signal != SIGINT) g_signal = number;
}

void cmd_signals_ignore_pipe(void) {
    struct sigaction a = {.sa_handler = SIG_IGN};
    sigemptyset(&a.sa_mask);
    sigaction(SIGPIPE, &a, NULL);
}

void cmd_signals_catch(void) {
    // Without SA_RESTART: a wait for a reader or a terminal ends when a signal comes, instead of
    // going on for as long as the other side likes.
    struct sigaction a = {.sa_handler = on_signal};
    sigemptyset(&a.sa_mask);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGUSR1, &a, NULL);
}

bool cmd_signals_asked(void *ctx) {
    (void)ctx;
    return g_signal != 0;
}

const char *cmd_signals_name(void) {
    switch (g_signal) {
    case SIGTERM: return "SIGTERM";
    case SIGINT: return "SIGINT";
    case SIGUSR1: return "SIGUSR1";
    default: return NULL;
    }
}
