// Start, event loop, signals, end.
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int signals = -1;
static uint64_t heartbeat = 60 * SECOND;

static void options(int argc, char **argv);
static int open_signals(void);
static void take_signals(void);

int main(int argc, char **argv)
{
	prctl(PR_SET_DUMPABLE, 0);
	options(argc, argv);
	if (getpid() != 1)
		end(END_NOT_INIT, "not PID 1, and killing is by PID namespace: refusing to run");
	while (fcntl(2, F_GETFD) < 0) // so that no descriptor of ours is taken for a standard one
		if (open("/dev/null", O_RDWR) < 0)
			end(END_SYSTEM, NULL);
	close_from(3);
	signals = open_signals();
	memory_open();
	channel_open();

	for (;;) {
		static struct pollfd fds[3 + MAX_WATCHED];
		bool wants = channel_wants();
		fds[0] = (struct pollfd){.fd = wants ? 0 : -1, .events = POLLIN};
		fds[1] = (struct pollfd){.fd = channel_stuck() ? 1 : -1, .events = POLLOUT};
		fds[2] = (struct pollfd){.fd = signals, .events = POLLIN};
		size_t n = 3 + execs_watch(fds + 3);

		uint64_t silence = channel_heard() + heartbeat;
		uint64_t due = silence, now = clock_us();
		if (channel_due() < due)
			due = channel_due();
		if (execs_due() < due)
			due = execs_due();
		uint64_t wait = due > now ? due - now : 0;
		struct timespec t = {.tv_sec = wait / SECOND, .tv_nsec = wait % SECOND * 1000};
		if (ppoll(fds, n, &t, NULL) < 0) {
			if (errno != EINTR) // which comes of being stopped and continued
				end(END_SYSTEM, "poll");
			continue;
		}

		// Commands first: what poll said of their pipes is true until a
		// frame or a signal changes them.
		execs_serve(fds + 3);
		if (fds[2].revents)
			take_signals();
		channel_read(fds[0].revents != 0);
		channel_flush();

		// Only when poll saw no input after the time was over: a sandbox that
		// was frozen, at whatever point of this loop, has pings waiting.
		if (wants && !fds[0].revents && now >= silence)
			end(END_SILENCE, "the host is silent");
	}
}

static void options(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "--heartbeat") == 0 && atoi(argv[2]) > 0)
		heartbeat = (uint64_t)atoi(argv[2]) * SECOND;
	else if (argc > 1)
		end(END_USAGE, "usage: kilntainers-init [--heartbeat SECONDS]");
}

// open_signals takes all signals away from their handlers, for good. As PID 1
// we would be safe from those of our own namespace anyway, but not under every
// runtime.
static int open_signals(void)
{
	for (int s = 1; s < NSIG; s++)
		signal(s, SIG_DFL);
	sigset_t all, ours;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	sigemptyset(&ours);
	sigaddset(&ours, SIGCHLD);
	sigaddset(&ours, SIGTERM);
	int fd = signalfd(-1, &ours, SFD_NONBLOCK | SFD_CLOEXEC);
	if (fd < 0)
		end(END_SYSTEM, "signalfd");
	return fd;
}

static void take_signals(void)
{
	struct signalfd_siginfo s;
	while (read(signals, &s, sizeof s) == sizeof s)
		if (s.ssi_signo == SIGTERM && s.ssi_pid == 0) // sent from outside the namespace
			end(END_OK, NULL);
	reap();
}

void reap(void)
{
	int status;
	for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
		execs_reaped(pid, WIFSIGNALED(status));
}

uint64_t clock_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec / 1000;
}

void say(int fd, ...)
{
	struct iovec parts[8];
	int n = 0;
	va_list args;
	va_start(args, fd);
	for (char *s; n < 8 && (s = va_arg(args, char *)); n++)
		parts[n] = (struct iovec){s, strlen(s)};
	va_end(args);
	if (writev(fd, parts, n) < 0)
		return; // nobody is left to be told
}

void end(int status, const char *why)
{
	if (why)
		say(2, "kilntainers-init: ", why, "\n", NULL);
	_exit(status);
}
