// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * init: process 1 of a kernel under test. It carries out /plan, one step a line, and starts one program.
 *
 *   module PATH                        load a module
 *   folder PATH                        make a folder
 *   mount TYPE SOURCE TARGET FLAGS DATA    FLAGS and DATA may be "-"; FLAGS: ro, bind
 *   root PATH                          go on with PATH as the root
 *   write PATH TEXT                    write TEXT, as into /proc/sys
 *   up INTERFACE                       set an interface up
 *   folder-of-work PATH                where the program starts
 *   end                                end the machine here
 *
 * A step that fails is said on the console and ends the machine: a kernel that is half set up tests nothing.
 * A step that begins with "?" may fail.
 *
 * The program is in /argv, its environment in /environ, both as in /proc/PID: words that end in NUL. It talks through
 * the first virtio port; what it writes to standard error is on the console. Meanwhile a byte a second leaves by the
 * second port: as long as they come, this kernel still schedules.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_WORDS  512
#define MOST_BYTES  (1 << 20)
#define WORKER_PORT "/dev/vport0p1"
#define BEAT_PORT   "/dev/vport0p2"

static void end_machine(void)
{
	sync();
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static void give_up(const char *format, ...)
{
	va_list arguments;

	printf("init: ");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf(": %s\n", strerror(errno));
	fflush(stdout);
	end_machine();
}

static char *read_file(const char *path, size_t *size)
{
	char *content = malloc(MOST_BYTES + 1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got;

	if (fd < 0 || !content)
		give_up("open %s", path);
	*size = 0;
	while ((got = read(fd, content + *size, MOST_BYTES - *size)) > 0)
		*size += got;
	close(fd);
	content[*size] = '\0';
	return content;
}

/* The words of a file that end in NUL, as execve() takes them. */
static char **read_words(const char *path)
{
	char **words = calloc(MOST_WORDS + 1, sizeof(*words));
	size_t size, place = 0, number = 0;
	char *content = read_file(path, &size);

	while (place < size && number < MOST_WORDS) {
		words[number++] = content + place;
		place += strlen(content + place) + 1;
	}
	return words;
}

static int load_module(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int failed = fd < 0 || syscall(SYS_finit_module, fd, "", 0);

	if (fd >= 0)
		close(fd);
	return failed && errno != EEXIST ? -1 : 0;
}

static int mount_one(char **word)
{
	unsigned long flags = 0;

	if (!word[3])
		return errno = EINVAL, -1;
	if (word[4] && strstr(word[4], "ro"))
		flags |= MS_RDONLY;
	if (word[4] && strstr(word[4], "bind"))
		flags |= MS_BIND;
	return mount(word[2], word[3], word[1], flags, word[4] && word[5] && strcmp(word[5], "-") ? word[5] : NULL);
}

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int failed = fd < 0 || write(fd, text, strlen(text)) < 0;

	if (fd >= 0)
		close(fd);
	return failed ? -1 : 0;
}

static int set_up(const char *interface)
{
	struct ifreq request = { .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int failed;

	strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
	failed = fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request);
	if (fd >= 0)
		close(fd);
	return failed ? -1 : 0;
}

static int carry_out(char **word)
{
	const char *first = word[1] ? word[1] : "", *second = word[2] ? word[2] : "";

	if (!strcmp(word[0], "module"))
		return load_module(first);
	if (!strcmp(word[0], "folder"))
		return mkdir(first, 0755) && errno != EEXIST ? -1 : 0;
	if (!strcmp(word[0], "mount"))
		return mount_one(word);
	if (!strcmp(word[0], "root"))
		return chdir(first) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/");
	if (!strcmp(word[0], "write"))
		return write_text(first, second);
	if (!strcmp(word[0], "up"))
		return set_up(first);
	if (!strcmp(word[0], "folder-of-work"))
		return chdir(first);
	if (!strcmp(word[0], "end"))
		end_machine();
	errno = ENOSYS;
	return -1;
}

static void carry_out_plan(char *plan)
{
	char *rest, *line;

	for (line = strtok_r(plan, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char *word[8] = {}, *within, *each;
		int number = 0, may_fail = line[0] == '?';

		line += may_fail;
		for (each = strtok_r(line, " ", &within); each && number < 7; each = strtok_r(NULL, " ", &within))
			word[number++] = each;
		if (number && carry_out(word) && !may_fail)
			give_up("%s %s %s %s", word[0], word[1] ? word[1] : "", word[2] ? word[2] : "",
				word[3] ? word[3] : "");
	}
}

/* A port appears when the host's side of the device has announced it: a moment after its module was loaded. */
static int open_port(const char *path, int flags)
{
	for (int attempt = 0; attempt < 1000; attempt++) {
		int fd = open(path, flags | O_CLOEXEC);

		if (fd >= 0)
			return fd;
		poll(NULL, 0, 10);
	}
	give_up("open %s", path);
	return -1;
}

static void become(char **argv, char **environ_of_it, int port)
{
	setsid();
	dup2(port, 0);
	dup2(port, 1);
	execve(argv[0], argv, environ_of_it);
	give_up("start %s", argv[0]);
}

int main(void)
{
	char **argv = read_words("/argv"), **environment = read_words("/environ");
	int worker, beat, status = 0;
	size_t size;
	pid_t child, ended = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	carry_out_plan(read_file("/plan", &size));
	worker = open_port(WORKER_PORT, O_RDWR);
	beat = open_port(BEAT_PORT, O_WRONLY | O_NONBLOCK);
	child = fork();
	if (child == 0)
		become(argv, environment, worker);
	close(worker);
	signal(SIGPIPE, SIG_IGN);
	while (child > 0 && ended != child) {
		struct timespec second = { .tv_sec = 1 };
		sigset_t children;

		if (write(beat, ".", 1) < 0 && errno != EAGAIN)
			printf("init: beat: %s\n", strerror(errno));
		sigemptyset(&children);
		sigaddset(&children, SIGCHLD);
		sigprocmask(SIG_BLOCK, &children, NULL);
		sigtimedwait(&children, NULL, &second);
		while ((ended = waitpid(-1, &status, WNOHANG)) > 0 && ended != child)
			;
	}
	printf("init: the worker ended with status %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
	fflush(stdout);
	end_machine();
}
