// The processes of a command.
//
//	PID 1 ──fork──► supervisor ──fork──► the command
//
// The supervisor is the command's sub-reaper: whatever the command starts, and
// however it detaches (setsid, double forks), stays below it, so the tree of
// a command is exact. It waits, reports how the command ended, and stays as
// long as something is below it.
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NOT_FOUND = 127, NOT_RUN = 126 }; // exit status of what could not be started

extern char **environ;

static _Noreturn void supervise(const struct command *c);
static _Noreturn void run(const struct command *c);
static _Noreturn void cannot(int code, const char *what, const char *name, const char *why);

pid_t spawn(const struct command *c)
{
	pid_t pid = fork();
	if (pid == 0)
		supervise(c);
	return pid;
}

static _Noreturn void supervise(const struct command *c)
{
	// Before anything of the command runs, nothing is open but its own three
	// and the report: the channel and the pipes of other commands are gone.
	// The pipes are above 3, since that is the signals' in PID 1.
	int in = c->in >= 0 ? c->in : open("/dev/null", O_RDONLY);
	if (dup2(in, 0) < 0)
		close(0);
	dup2(c->out, 1);
	dup2(c->err, 2);
	dup3(c->report, 3, O_CLOEXEC);
	close_from(4);
	prctl(PR_SET_CHILD_SUBREAPER, 1);

	pid_t command = fork();
	if (command == 0)
		run(c);
	struct report r = {.code = NOT_RUN};
	if (command < 0)
		say(2, "kilntainers: cannot start a process: ", strerror(errno), "\n", NULL);
	for (int fd = 0; fd < 3; fd++)
		close(fd);

	// Our signals are blocked as PID 1's are: only SIGKILL ends this loop early.
	int status;
	pid_t pid = command;
	while (pid > 0 && (pid = waitpid(-1, &status, 0)) != command)
		;
	if (pid > 0)
		r.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		;
	r.left = pid == 0;
	ssize_t written = write(3, &r, sizeof r);
	(void)written; // nobody listens when the command was killed, but it may have children yet
	close(3);
	while (waitpid(-1, &status, 0) > 0)
		;
	_exit(0);
}

void close_from(int fd)
{
	if (syscall(SYS_close_range, fd, ~0u, 0) == 0)
		return;
	// An old kernel, or a seccomp profile that does not know the call. Numbers
	// are given out from the lowest, and PID 1 has fewer than these.
	for (; fd < 2048; fd++)
		close(fd);
}

// ---- the command, up to its exec

static char **environment(const struct command *c);
static _Noreturn void run_shell(const struct command *c, char **env);
static _Noreturn void run_program(const struct command *c, char **env);

static _Noreturn void run(const struct command *c)
{
	setsid();
	memory_offer();
	if (*c->dir && chdir(c->dir) < 0)
		cannot(NOT_RUN, "change to directory", c->dir, strerror(errno));
	char **env = environment(c);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (c->flags & EXEC_SHELL)
		run_shell(c, env);
	run_program(c, env);
}

// lookup returns the entry of env for the variable that s, NAME or NAME=value,
// names, or NULL.
static char **lookup(char **env, const char *s)
{
	size_t n = strcspn(s, "=");
	for (; *env; env++)
		if (strncmp(*env, s, n) == 0 && (*env)[n] == '=')
			return env;
	return NULL;
}

// environment is our own, which is the image's and the engine's, with the
// command's on top.
static char **environment(const struct command *c)
{
	enum { OWN = 4096 };
	static char *env[OWN + MAX_STRINGS + 1];
	size_t n = 0;
	for (char **e = environ; *e && n < OWN; e++)
		if (!lookup(c->env, *e))
			env[n++] = *e;
	for (char **e = c->env; *e; e++)
		env[n++] = *e;
	env[n] = NULL;
	return env;
}

// explain tells what kept path from being run, where the kernel's word for it
// leads astray.
static const char *explain(const char *path, int error)
{
	if (error == ENOENT && access(path, F_OK) == 0)
		return "the interpreter or loader that it needs does not exist";
	if (error == E2BIG)
		return "argument list too long (131071 bytes for one argument, about 2 MiB in all)";
	return strerror(error);
}

// run_shell runs the image's best shell. The host leaves out its name where it
// belongs: as argument 0, and as argument 3 when that is to become its $0.
static _Noreturn void run_shell(const struct command *c, char **env)
{
	static const char *const shells[] = {"/bin/bash", "/bin/sh"};
	for (size_t i = 0; i < sizeof shells / sizeof shells[0]; i++) {
		c->argv[0] = (char *)shells[i];
		if (c->argc > 3)
			c->argv[3] = (char *)shells[i];
		execve(shells[i], c->argv, env);
		if (errno != ENOENT && errno != EACCES && errno != ENOTDIR)
			cannot(NOT_RUN, "run", shells[i], explain(shells[i], errno));
	}
	cannot(NOT_FOUND, "run a shell command", NULL,
	       "there is neither /bin/bash nor /bin/sh in here; run a program with args instead");
}

static _Noreturn void run_program(const struct command *c, char **env)
{
	const char *name = c->argv[0];
	if (strchr(name, '/')) {
		execve(name, c->argv, env);
		int error = errno;
		bool absent = error == ENOENT && access(name, F_OK) < 0;
		cannot(absent ? NOT_FOUND : NOT_RUN, "run", name, explain(name, error));
	}

	char **var = lookup(env, "PATH");
	const char *dir = var ? *var + strlen("PATH=")
	                      : "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	const char *why = NULL; // of the first file that could not be run
	char path[PATH_MAX];
	for (bool more = *name != 0; more;) {
		size_t d = strcspn(dir, ":"), n = strlen(name);
		more = dir[d] == ':';
		if (d + 1 + n < sizeof path) {
			memcpy(path, dir, d);
			path[d] = '/';
			memcpy(path + d + (d > 0), name, n + 1); // an empty directory is the current one
			execve(path, c->argv, env);
			int error = errno;
			bool absent = (error == ENOENT || error == ENOTDIR) && access(path, F_OK) < 0;
			if (!absent && !why)
				why = explain(path, error);
			if (!absent && error != ENOENT && error != EACCES)
				break;
		}
		dir += d + 1;
	}
	cannot(why ? NOT_RUN : NOT_FOUND, "run", name, why ? why : "command not found");
}

// cannot says on the command's stderr why it was not started, and ends.
static _Noreturn void cannot(int code, const char *what, const char *name, const char *why)
{
	char quoted[260] = "";
	if (name) {
		size_t n = strnlen(name, sizeof quoted - 4);
		memcpy(quoted, " \"", 2);
		memcpy(quoted + 2, name, n);
		memcpy(quoted + 2 + n, "\"", 2);
	}
	say(2, "kilntainers: cannot ", what, quoted, ": ", why, "\n", NULL);
	_exit(code);
}
