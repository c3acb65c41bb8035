// The kernel's OOM killer: whom it takes, and what it took.
#include "init.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static int counter = -1;    // the file that counts the kills
static char offer[8] = "0"; // oom_score_adj of commands

void memory_open(void)
{
	counter = open("/sys/fs/cgroup/memory.events", O_RDONLY | O_CLOEXEC); // cgroup v2
	if (counter < 0)
		counter = open("/sys/fs/cgroup/memory/memory.oom_control", O_RDONLY | O_CLOEXEC); // v1

	// A thousandth of the memory limit for each point, on top of what a process
	// uses: 100 more than our own make it certain that we are not the first.
	int fd = open("/proc/self/oom_score_adj", O_RDONLY | O_CLOEXEC);
	char text[16] = "";
	if (fd >= 0) {
		if (read(fd, text, sizeof text - 1) < 0)
			text[0] = 0;
		close(fd);
	}
	int score = atoi(text) + 100;
	if (score > 1000)
		score = 1000;
	if (score < 0)
		score = 0;
	char *p = offer + sizeof offer - 1;
	*p = 0;
	do
		*--p = (char)('0' + score % 10);
	while (score /= 10);
	memmove(offer, p, strlen(p) + 1);
}

uint64_t memory_kills(void)
{
	// Both versions have lines of a name and a number, one of them "oom_kill N".
	char text[512];
	ssize_t n = counter < 0 ? 0 : pread(counter, text, sizeof text - 1, 0);
	text[n > 0 ? n : 0] = 0;
	char *line = strstr(text, "oom_kill ");
	return line ? strtoull(line + strlen("oom_kill "), NULL, 10) : 0;
}

void memory_offer(void)
{
	// The files in /proc of a process that is not dumpable belong to root, so
	// another user could not write this one. It has nothing to hide any more:
	// see supervise.
	prctl(PR_SET_DUMPABLE, 1);
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t written = write(fd, offer, strlen(offer));
	(void)written; // without it the kernel goes by size, and PID 1 is the smallest
	close(fd);
}
