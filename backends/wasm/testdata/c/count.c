/* A C program as a user might bring one: it counts the bytes of files, or of
   its standard input, and appends the result to the file in $LOG. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int count(FILE *f, const char *name) {
	long n = 0;
	while (getc(f) != EOF)
		n++;
	printf("%ld %s\n", n, name);
	const char *log = getenv("LOG");
	if (log) {
		FILE *out = fopen(log, "a");
		if (!out) {
			fprintf(stderr, "%s: %s\n", log, strerror(errno));
			return 1;
		}
		fprintf(out, "%ld\n", n);
		fclose(out);
	}
	return 0;
}

int main(int argc, char **argv) {
	int status = 0;
	if (argc < 2)
		return count(stdin, "-");
	for (int i = 1; i < argc; i++) {
		FILE *f = fopen(argv[i], "r");
		if (!f) {
			fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
			status = 1;
			continue;
		}
		status |= count(f, argv[i]);
		fclose(f);
	}
	return status;
}
