// Finding and killing processes, by /proc. While one looks at them they fork
// and move, so first all are stopped, until a look finds no new one, and then
// all are killed: a fork bomb stands still before it dies.
//
// A supervisor is stopped too, and outlives what is below it. When it is seen
// stopped, it is not about to start its command; and as long as it is there,
// what is orphaned comes to it and is found by the next look.
#include "init.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	MAX_PROCESSES = 32768, // more can only be killed with kill(-1): see exec.c
	FREEZE_LOOKS = 20,     // until killing begins, although new ones still appear
	LOOKS = 40             // about 4 ms of waiting for the dead
};

struct process {
	pid_t pid, parent;
	bool dead, stopped;
	bool supervisor;
	bool chosen; // to be killed, or held if it is a supervisor
	enum fate fate;
};

// look fills in all processes, in order of pid as /proc has them, and returns
// how many there are, or -1.
static int look(struct process *table)
{
	DIR *proc = opendir("/proc");
	if (!proc)
		return -1;
	int n = 0;
	for (struct dirent *d; (d = readdir(proc));) {
		char name[64], text[512];
		size_t len = strlen(d->d_name);
		if (d->d_name[0] < '1' || d->d_name[0] > '9' || len > 16)
			continue;
		memcpy(name, d->d_name, len);
		memcpy(name + len, "/stat", 6);
		int fd = openat(dirfd(proc), name, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue; // it is gone
		ssize_t size = read(fd, text, sizeof text - 1);
		close(fd);
		if (size <= 0)
			continue;
		text[size] = 0;

		// proc_pid_stat(5): pid (comm) state ppid … with the number of threads
		// as field 20. A process is a zombie as soon as its main thread has
		// ended, and alive as long as another one has not.
		char *comm_end = strrchr(text, ')');
		if (!comm_end || strlen(comm_end) < 4)
			continue;
		char state = comm_end[2], *field = comm_end + 3;
		pid_t parent = (pid_t)strtol(field, NULL, 10);
		for (int i = 4; i < 20 && field; i++)
			field = strchr(field + 1, ' ');
		long threads = field ? strtol(field, NULL, 10) : 1;

		if (n == MAX_PROCESSES) {
			n = -1;
			break;
		}
		table[n++] = (struct process){
			.pid = (pid_t)strtol(d->d_name, NULL, 10),
			.parent = parent,
			.dead = (state == 'Z' || state == 'X') && threads <= 1,
			.stopped = state == 'T',
		};
	}
	closedir(proc);
	return n;
}

static struct process *find(struct process *table, int n, pid_t pid)
{
	int low = 0, high = n;
	while (low < high) {
		int middle = low + (high - low) / 2;
		if (table[middle].pid < pid)
			low = middle + 1;
		else
			high = middle;
	}
	return low < n && table[low].pid == pid ? &table[low] : NULL;
}

// choose marks what is to be killed. A process has the fate that the nearest
// supervisor above it gives; what has none above is a stray: left by earlier
// commands, or by one whose supervisor was killed.
static void choose(struct process *table, int n, bool strays)
{
	for (struct process *p = table; p < table + n; p++) {
		p->fate = execs_fate(p->pid);
		p->supervisor = p->fate != STRAY;
		p->chosen = p->fate == DOOMED;
	}
	for (bool more = true; more;) { // parents mostly stand before their children
		more = false;
		for (struct process *p = table; p < table + n; p++) {
			struct process *parent = p->fate == STRAY ? find(table, n, p->parent) : NULL;
			if (!parent || parent->fate == STRAY)
				continue;
			p->fate = parent->fate;
			p->chosen = p->fate == DOOMED;
			more = true;
		}
	}
	if (strays)
		for (struct process *p = table; p < table + n; p++)
			if (p->fate == STRAY && p->pid != 1)
				p->chosen = true;
}

bool tree_kill(bool strays)
{
	static struct process tables[2][MAX_PROCESSES];
	struct process *now = tables[0], *before = tables[1];
	int n, n_before = 0;
	for (int looks = 0; looks < LOOKS; looks++) {
		if ((n = look(now)) < 0)
			return false;
		choose(now, n, strays);
		int fresh = 0, alive = 0, loose = 0;
		for (struct process *p = now; p < now + n; p++) {
			if (!p->chosen || p->dead)
				continue;
			struct process *known = find(before, n_before, p->pid);
			if (!known || !known->chosen) {
				kill(p->pid, SIGSTOP);
				fresh++;
			}
			if (!p->supervisor)
				alive++;
			else if (!known || !known->stopped)
				loose++;
		}
		if (alive == 0 && loose == 0)
			return true;
		if (fresh == 0 || looks >= FREEZE_LOOKS) {
			for (struct process *p = now; p < now + n; p++)
				if (p->chosen && !p->dead && !p->supervisor)
					kill(p->pid, SIGKILL);
			nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
		}
		struct process *t = before;
		before = now;
		now = t;
		n_before = n;
	}
	return false;
}
