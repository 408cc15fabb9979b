// What JavaScript cannot do by itself: one attack by a system call, named by the
// first argument. It prints one line, "got" and what it got, or "refused", the
// error's name, and the step that was refused. It harms nobody where it
// succeeds: it touches only what is its own, or writes back what it read.
//
// Built statically, so that it runs on any root filesystem.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/fanotify.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/sockios.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LISTENER 3
#define CONTROL 4
#define LOG 5

static void got(const char *what) { printf("got %s\n", what); exit(0); }

static void refused(const char *step) {
	printf("refused %s %s\n", strerrorname_np(errno), step);
	exit(0);
}

// broken: the attack itself could not be made.
static void broken(const char *step) {
	printf("broken %s: %s\n", step, strerror(errno));
	exit(1);
}

static long must(long result, const char *step) {
	if (result < 0) broken(step);
	return result;
}

// attempt ends the program: the call is the attack.
static void attempt(long result, const char *step) {
	if (result < 0) refused(step);
	got(step);
}

static char **words; // the arguments behind the attack's name
static const char *word(int i) {
	for (int n = 0; n <= i; n++)
		if (!words[n]) { errno = EINVAL; broken("too few arguments"); }
	return words[i];
}

// An argument host:port.
static struct sockaddr_in address(const char *text) {
	struct sockaddr_in a = { .sin_family = AF_INET };
	char host[64] = "";
	int port = 0;
	if (sscanf(text, "%63[0-9.]:%d", host, &port) != 2 || !inet_aton(host, &a.sin_addr)) { errno = EINVAL; broken(text); }
	a.sin_port = htons(port);
	return a;
}

// ---- namespaces and mounts

static void mount_tmpfs(void) { attempt(mount("none", "/tmp", "tmpfs", 0, NULL), "mount"); }
static void mount_new(void) { attempt(syscall(SYS_fsopen, "tmpfs", 0), "fsopen"); }
static void mount_tree(void) { attempt(syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */), "open_tree"); }
static void mount_bind(void) { attempt(mount("/proc", "/tmp", NULL, MS_BIND, NULL), "bind mount"); }
static void remount_root(void) { attempt(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL), "remount read-write"); }
static void unmask(void) { attempt(umount2("/proc/kcore", MNT_DETACH), "umount"); }
static void unmount_tmp(void) { attempt(umount2("/tmp", MNT_DETACH), "umount"); }
static void pivot_root_(void) { attempt(syscall(SYS_pivot_root, "/tmp", "/tmp"), "pivot_root"); }
static void chroot_(void) { attempt(chroot("/tmp"), "chroot"); }
static void unshare_user(void) { attempt(unshare(CLONE_NEWUSER), "unshare a user namespace"); }
static void unshare_mount(void) { attempt(unshare(CLONE_NEWNS), "unshare a mount namespace"); }
static void unshare_net(void) { attempt(unshare(CLONE_NEWNET), "unshare a network namespace"); }
static void unshare_cgroup(void) { attempt(unshare(CLONE_NEWCGROUP), "unshare a cgroup namespace"); }

static void clone_user(void) {
	long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0) _exit(0);
	attempt(pid, "clone into a user namespace");
}

static void clone3_user(void) {
	struct { unsigned long long flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls; } args = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
	long pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid == 0) _exit(0);
	attempt(pid, "clone3 into a user namespace");
}

static void setns_(void) {
	int fd = must(open("/proc/self/ns/net", O_RDONLY), "open /proc/self/ns/net");
	attempt(setns(fd, CLONE_NEWNET), "setns");
}

static void handle(void) {
	union { struct file_handle h; char space[sizeof(struct file_handle) + MAX_HANDLE_SZ]; } u = { .h = { .handle_bytes = MAX_HANDLE_SZ } };
	int mount_id;
	// The inode of most filesystems' root: whether or not naming it is allowed.
	if (name_to_handle_at(AT_FDCWD, "/tmp", &u.h, &mount_id, 0) < 0) {
		u.h.handle_bytes = 8;
		u.h.handle_type = 1;
		memcpy(u.h.f_handle, "\2\0\0\0\0\0\0\0", 8);
	}
	int fd = must(open("/tmp", O_RDONLY), "open /tmp");
	attempt(open_by_handle_at(fd, &u.h, O_RDONLY), "open_by_handle_at");
}

// ---- the kernel's large surfaces

static void bpf_map(void) {
	union bpf_attr attr = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1 };
	attempt(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr), "bpf(BPF_MAP_CREATE)");
}

static void bpf_prog(void) {
	struct bpf_insn code[] = { { .code = BPF_ALU64 | BPF_MOV | BPF_K }, { .code = BPF_JMP | BPF_EXIT } };
	union bpf_attr attr = { .prog_type = BPF_PROG_TYPE_SOCKET_FILTER, .insns = (unsigned long)code, .insn_cnt = 2, .license = (unsigned long)"GPL" };
	attempt(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr), "bpf(BPF_PROG_LOAD)");
}

static void perf(void) {
	struct perf_event_attr attr = { .type = PERF_TYPE_SOFTWARE, .size = sizeof attr, .config = PERF_COUNT_SW_CPU_CLOCK, .exclude_kernel = 1 };
	attempt(syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0), "perf_event_open");
}

static void uffd(void) { attempt(syscall(SYS_userfaultfd, O_CLOEXEC | 1), "userfaultfd"); }

static void uring(void) {
	struct io_uring_params params = { 0 };
	attempt(syscall(SYS_io_uring_setup, 1, &params), "io_uring_setup");
}

static void keys_get(void) { attempt(syscall(SYS_keyctl, 0 /* GET_KEYRING_ID */, -3 /* session */, 1), "keyctl"); }
static void keys_add(void) { attempt(syscall(SYS_add_key, "user", "sanfran", "x", 1, -4 /* user */), "add_key"); }
static void fanotify(void) { attempt(syscall(SYS_fanotify_init, FAN_CLASS_NOTIF, O_RDONLY), "fanotify_init"); }
static void personality_(void) { attempt(personality(ADDR_NO_RANDOMIZE), "personality"); }
static void dmesg(void) { char text[64]; attempt(syscall(SYS_syslog, 3, text, sizeof text), "syslog"); }
static void quota(void) { attempt(syscall(SYS_quotactl, 0x80000300 /* Q_SYNC */, NULL, 0, NULL), "quotactl"); }

// ---- the machine

static void kexec(void) { attempt(syscall(SYS_kexec_load, 0, 0, NULL, 0), "kexec_load"); }
static void reboot_(void) { attempt(reboot(RB_ENABLE_CAD), "reboot(RB_ENABLE_CAD)"); }
static void module(void) { attempt(syscall(SYS_init_module, "", 0, ""), "init_module"); }
static void swap(void) { attempt(syscall(SYS_swapoff, "/tmp"), "swapoff"); }
static void account(void) { attempt(syscall(SYS_acct, NULL), "acct"); }
static void hostname(void) { attempt(sethostname("sanfran", 7), "sethostname"); }
static void ports(void) { attempt(syscall(SYS_ioperm, 0x80, 1, 1), "ioperm"); }

static void clock_set(void) {
	struct timespec now;
	must(clock_gettime(CLOCK_REALTIME, &now), "clock_gettime");
	attempt(syscall(SYS_clock_settime, CLOCK_REALTIME, &now), "clock_settime");
}

static void clock_adjust(void) {
	struct timex t = { .modes = ADJ_TAI, .constant = 0 };
	struct timex now = { 0 };
	must(adjtimex(&now), "read the clock");
	t.constant = now.tai;
	attempt(adjtimex(&t) < 0 ? -1 : 0, "adjtimex");
}

static void node_mem(void) {
	unlink("/tmp/mem");
	attempt(mknod("/tmp/mem", S_IFCHR | 0600, 0x101), "mknod of /dev/mem");
}

static void node_disk(void) {
	unlink("/tmp/disk");
	attempt(mknod("/tmp/disk", S_IFBLK | 0600, 0x800), "mknod of a disk");
}

static void typed(void) { // types into the terminal of whoever started it
	for (int fd = 0; fd < 6; fd++)
		if (ioctl(fd, TIOCSTI, "x") == 0) got("typed into the terminal");
	int fd = open("/dev/tty", O_RDWR);
	if (fd < 0) refused("open /dev/tty");
	attempt(ioctl(fd, TIOCSTI, "x"), "TIOCSTI");
}

// ---- identity and priority

static void become_root(void) { attempt(setuid(0), "setuid(0)"); }
static void become_group(void) { attempt(setgid(0), "setgid(0)"); }
static void become_groups(void) { gid_t g = 0; attempt(syscall(SYS_setgroups, 1, &g), "setgroups"); }

static void capabilities(void) {
	struct { unsigned version; int pid; } head = { 0x20080522, 0 };
	struct { unsigned effective, permitted, inheritable; } data[2] = { { 1u << 21, 1u << 21, 0 }, { 0, 0, 0 } };
	attempt(syscall(SYS_capset, &head, data), "capset(CAP_SYS_ADMIN)");
}

static void setuid_file(void) { // a setuid-root program of the container's own
	int fd = must(open("/tmp/root", O_CREAT | O_WRONLY, 0700), "make a file");
	must(fchmod(fd, 06755), "chmod u+s");
	attempt(fchown(fd, 0, 0), "chown to root");
}

static void privileges(void) { attempt(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), "clear no_new_privs"); }
static void nice_(void) { attempt(setpriority(PRIO_PROCESS, 0, -20), "setpriority"); }
static void realtime(void) { struct sched_param p = { .sched_priority = 1 }; attempt(sched_setscheduler(0, SCHED_FIFO, &p), "sched_setscheduler"); }

static void locked(void) { // more than its limit of locked memory
	struct rlimit limit = { 1ul << 40, 1ul << 40 };
	attempt(setrlimit(RLIMIT_MEMLOCK, &limit), "setrlimit(RLIMIT_MEMLOCK)");
}

// ---- other processes: the container's own are those that the worker, who started
// this program, has started; whatever else has a number here is somebody else's

static int field(int pid, const char *name) {
	char path[32], line[256];
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	FILE *status = fopen(path, "r");
	int value = 0;
	while (status && fgets(line, sizeof line, status))
		if (!strncmp(line, name, strlen(name))) { value = atoi(line + strlen(name)); break; }
	if (status) fclose(status);
	return value;
}

static int own(int id) { // of a thread, too
	for (int pid = field(id, "Tgid:"); pid > 0; pid = field(pid, "PPid:"))
		if (pid == getppid()) return 1;
	return 0;
}

// others tries whatever has a number up to 65535, or is to be seen in /proc, and is
// not the container's own, and ends the program. It says ESRCH if nobody has.
static void others(long (*attack)(int pid), const char *step) {
	int answer = ESRCH;
	DIR *proc = opendir("/proc");
	if (!proc) broken("open /proc");
	for (int pid = 1; pid > 0; ) {
		if ((kill(pid, 0) == 0 || errno != ESRCH) && !own(pid)) {
			if (attack(pid) >= 0) got(step);
			if (errno != ESRCH) answer = errno;
		}
		if (pid < 65536 && ++pid < 65536) continue;
		struct dirent *entry;
		pid = 0;
		while (pid < 65536 && (entry = readdir(proc))) pid = atoi(entry->d_name);
		if (pid < 65536) break;
	}
	errno = answer;
	refused(step);
}

static long seize(int pid) { return ptrace(PTRACE_SEIZE, pid, 0, 0); }

static long peek(int pid) {
	char into[64];
	struct iovec local = { into, sizeof into }, remote = { (void *)0x400000, sizeof into };
	long n = process_vm_readv(pid, &local, 1, &remote, 1, 0);
	return n < 0 && errno == EFAULT ? 0 : n; // allowed, only that nothing is there
}

static long signals(int pid) { return kill(pid, 0); }

static void trace(void) { others(seize, "ptrace of a process that is not the container's"); }
static void read_memory(void) { others(peek, "process_vm_readv of a process that is not the container's"); }
static void kill_all(void) { others(signals, "signal to a process that is not the container's"); }

// ---- sockets

static void raw(void) { attempt(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), "raw socket"); }
static void packet(void) { attempt(socket(AF_PACKET, SOCK_RAW, htons(3)), "packet socket"); }
static void vsock(void) { attempt(socket(40 /* AF_VSOCK */, SOCK_STREAM, 0), "vsock"); }
static void alg(void) { attempt(socket(38 /* AF_ALG */, SOCK_SEQPACKET, 0), "AF_ALG socket"); }

// Families that programs have no use for: each is a module of the kernel's.
static void families(void) {
	errno = EPERM;
	for (int family = 3; family < 46; family++) {
		if (family == AF_INET6 || family == AF_NETLINK) continue;
		for (int type = SOCK_STREAM; type <= SOCK_SEQPACKET; type++) {
			if (socket(family, type, 0) >= 0) { printf("got a socket of family %d\n", family); exit(0); }
			if (errno != EPERM) { printf("refused %s family %d, by the kernel and not by the filter\n", strerrorname_np(errno), family); exit(0); }
		}
	}
	refused("sockets of other families");
}

static struct ifreq interface(const char *name) {
	struct ifreq r = { 0 };
	strncpy(r.ifr_name, name, IFNAMSIZ - 1);
	return r;
}

static void own_address(void) { // to speak for another container
	int fd = must(socket(AF_INET, SOCK_DGRAM, 0), "socket");
	struct ifreq r = interface("lo");
	struct sockaddr_in a = address("198.51.100.9:1");
	memcpy(&r.ifr_addr, &a, sizeof a);
	attempt(ioctl(fd, SIOCSIFADDR, &r), "SIOCSIFADDR");
}


static void netfilter(void) { // delete every rule there is, in a namespace of its own
	int fd = socket(AF_NETLINK, SOCK_RAW, 12 /* NETLINK_NETFILTER */);
	if (fd < 0) refused("netfilter socket");
	// NFNL_MSG_BATCH_BEGIN of nf_tables: needs CAP_NET_ADMIN already.
	struct { unsigned len; unsigned short type, flags; unsigned seq, pid; unsigned char family, version; unsigned short id; } m[3] = {
		{ 20, 0x10, 1, 1, 0, 0, 0, htons(10) },
		{ 20, 0x0a02, 5, 2, 0, 0, 0, 0 }, // NFT_MSG_DELTABLE of all
		{ 20, 0x11, 1, 3, 0, 0, 0, htons(10) } };
	must(send(fd, m, sizeof m, 0), "send to netfilter");
	struct pollfd p = { fd, POLLIN, 0 };
	if (poll(&p, 1, 2000) != 1) { errno = ETIMEDOUT; broken("no answer of netfilter"); }
	char answer[4096];
	long n = must(recv(fd, answer, sizeof answer, 0), "read netfilter's answer");
	if (n < 20) { errno = EBADMSG; broken("netfilter's answer"); }
	errno = -*(int *)(answer + 16);
	if (errno) refused("delete all nftables");
	got("deleted nftables");
}

#ifdef __x86_64__
// The same calls by the entries for other ABIs, which a filter may forget.
static long by32(long number, long a, long b, long c) {
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	if ((int)result < 0) { errno = -(int)result; return -1; }
	return (int)result;
}

// forked runs an attack that the filter may end with a signal.
static void forked(long (*attack)(void), const char *step) {
	int pid = must(fork(), "fork");
	if (pid == 0) _exit(attack() < 0 ? errno : 0);
	int status;
	must(waitpid(pid, &status, 0), "wait");
	if (WIFSIGNALED(status)) { printf("refused %s %s\n", strsignal(WTERMSIG(status))[0] == 'B' ? "SIGSYS" : "SIGNAL", step); exit(0); }
	errno = WEXITSTATUS(status);
	if (errno) refused(step);
	got(step);
}

static long socket32(int family, int type) {
	// Arguments below 4 GiB.
	int *args = (int *)syscall(SYS_mmap, 0x10000000, 4096, 3 /* read and write */, 0x32 /* private, anonymous, there */, -1, 0);
	args[0] = family;
	args[1] = type;
	args[2] = 0;
	return by32(102 /* socketcall */, 1 /* SYS_SOCKET */, (long)args, 0);
}
static long vsock32_(void) { return socket32(40, SOCK_STREAM); }
static long alg32_(void) { return socket32(38, SOCK_SEQPACKET); }
static long unshare32_(void) { return by32(310 /* unshare */, CLONE_NEWUSER, 0, 0); }
static long unsharex32_(void) { return syscall(0x40000000 | SYS_unshare, CLONE_NEWUSER); }
static void vsock32(void) { forked(vsock32_, "vsock by the 32-bit entry"); }
static void alg32(void) { forked(alg32_, "AF_ALG by the 32-bit entry"); }
static void unshare32(void) { forked(unshare32_, "unshare by the 32-bit entry"); }
static void unsharex32(void) { forked(unsharex32_, "unshare by the x32 entry"); }
#else
static void other(void) { errno = ENOSYS; refused("this machine has no such entry"); }
#define vsock32 other
#define alg32 other
#define unshare32 other
#define unsharex32 other
#endif

// ---- the inherited listener, and sockets accepted from it
//
// Arguments: the pod's own address (host:port, which leads to the listener), and
// what is attacked.

// answers waits a second for a connection that connect has begun.
static void connects(int fd, struct sockaddr_in to, const char *step) {
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) refused(step);
	struct pollfd p = { fd, POLLOUT, 0 };
	if (poll(&p, 1, 1000) == 0) { errno = ETIMEDOUT; refused(step); }
	int error = 0;
	socklen_t size = sizeof error;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
	errno = error;
	if (error) refused(step);
	got(step);
}

// accepted connects to the pod's own address and takes that connection before
// Node.js does, which waits for this program.
static int accepted(void) {
	struct sockaddr_in self = address(word(0));
	struct timeval patience = { 5, 0 };
	struct pollfd p = { LISTENER, POLLIN, 0 };
	// A pod that has just been woken may still have its address lead to the agent,
	// which then waits for Node.js, too.
	for (int tries = 1; ; tries++) {
		int client = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
		setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
		must(connect(client, (struct sockaddr *)&self, sizeof self), "connect to the pod's own address");
		if (poll(&p, 1, 1000) == 1) {
			int conn = accept(LISTENER, NULL, NULL);
			if (conn >= 0) return conn;
			if (errno != EAGAIN) broken("accept");
			close(client); // Node.js, where it does not wait, was quicker
			if (tries < 100) continue;
		}
		if (tries >= 5) { errno = ETIMEDOUT; broken("nothing came to the listener"); }
	}
}

// loose is an accepted socket that was disconnected: of the node's network, and
// free to be bound and connected anew.
static int loose(void) {
	int fd = accepted();
	struct sockaddr nobody = { .sa_family = AF_UNSPEC };
	must(connect(fd, &nobody, sizeof nobody), "disconnect");
	return fd;
}

static void listener_connect(void) {
	must(shutdown(LISTENER, SHUT_RDWR), "shut the listener down");
	connects(LISTENER, address(word(1)), "connect by the listener");
}

static void accepted_connect(void) { connects(loose(), address(word(1)), "connect by an accepted socket"); }

static void accepted_fast_open(void) {
	int fd = loose();
	struct sockaddr_in to = address(word(1));
	struct timeval second = { 1, 0 };
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	if (sendto(fd, "GET / HTTP/1.0\r\n\r\n", 18, MSG_FASTOPEN, (struct sockaddr *)&to, sizeof to) < 0) refused("send with TCP fast open");
	got("sent with TCP fast open");
}

static void accepted_source(void) { // from the address of another function
	int fd = loose();
	struct sockaddr_in as = address(word(2));
	as.sin_port = 0;
	must(bind(fd, (struct sockaddr *)&as, sizeof as), "bind to a function's address");
	connects(fd, address(word(1)), "connect from another function's address");
}

static void accepted_device(void) {
	int fd = loose();
	if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) < 0) refused("SO_BINDTODEVICE");
	connects(fd, address(word(1)), "connect by a chosen interface");
}

// Serves at an address of the node's network until it is ended; the runner looks
// whether anybody is answered there.
static void accepted_listen(void) {
	struct sockaddr_in at = address(word(1));
	int fd = loose(), yes = 1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0) refused("bind to an address of the node");
	if (listen(fd, 8) < 0) refused("listen at an address of the node");
	printf("listening\n");
	fflush(stdout);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	for (int i = 0; i < 300; i++) { // half a minute
		struct pollfd p = { fd, POLLIN, 0 };
		if (poll(&p, 1, 100) != 1) continue;
		int conn = accept(fd, NULL, NULL);
		if (conn < 0) continue;
		static const char stolen[] = "HTTP/1.0 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nstolen";
		(void)!write(conn, stolen, sizeof stolen - 1);
		close(conn);
	}
	exit(0);
}

// Holds fifty ports of the node for fifteen seconds: those from the one in the
// second argument on, or without it some of the kernel's choice.
static void take_ports(void) {
	enum { most = 50 };
	struct sockaddr_in at = { .sin_family = AF_INET };
	if (words[1]) at.sin_port = htons((unsigned short)atoi(words[1]));
	for (int i = 0; i < most; i++) {
		int fd = loose(), no = 0;
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &no, sizeof no); // nobody else gets it
		if (words[1]) {
			if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0) refused("bind to a port of the node");
			at.sin_port = htons(ntohs(at.sin_port) + 1);
		} else if (listen(fd, 1) < 0) refused("listen on a port of the node");
	}
	printf("holding %d ports\n", most);
	fflush(stdout);
	sleep(15);
	exit(0);
}

// Takes one as the agent does for a container: if need be from who allows it.
static void take_port(void) {
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(word(1))) };
	attempt(bind(loose(), (struct sockaddr *)&at, sizeof at), "bind to a port of the node");
}

static void steal_port(void) { // the port of another container's listener
	int fd = loose(), yes = 1;
	struct sockaddr_in at = address(word(1));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes);
	if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0) refused("bind to another container's port");
	attempt(listen(fd, 8), "listen on another container's port");
}

static void clear_mark(void) { int mark = 0; attempt(setsockopt(LISTENER, SOL_SOCKET, SO_MARK, &mark, sizeof mark), "SO_MARK of the listener"); }
static void clear_accepted_mark(void) { int mark = 0; attempt(setsockopt(loose(), SOL_SOCKET, SO_MARK, &mark, sizeof mark), "SO_MARK of an accepted socket"); }
static void transparent(void) { int yes = 1; attempt(setsockopt(LISTENER, IPPROTO_IP, 19 /* IP_TRANSPARENT */, &yes, sizeof yes), "IP_TRANSPARENT"); }
static void repair(void) { int yes = 1; attempt(setsockopt(LISTENER, IPPROTO_TCP, 19 /* TCP_REPAIR */, &yes, sizeof yes), "TCP_REPAIR"); }
static void force_buffer(void) { int much = 1 << 30; attempt(setsockopt(LISTENER, SOL_SOCKET, SO_RCVBUFFORCE, &much, sizeof much), "SO_RCVBUFFORCE"); }
static void host_namespace(void) { attempt(ioctl(LISTENER, SIOCGSKNS), "SIOCGSKNS"); }

static void host_interface(void) { // by a socket of the node's network
	struct ifreq r = interface("lo");
	must(ioctl(LISTENER, SIOCGIFFLAGS, &r), "read the flags of the node's lo");
	attempt(ioctl(LISTENER, SIOCSIFFLAGS, &r), "SIOCSIFFLAGS in the node's network"); // to what they are
}

static void host_address(void) {
	struct ifreq r = interface("lo:9");
	struct sockaddr_in a = address("127.99.99.99:1");
	memcpy(&r.ifr_addr, &a, sizeof a);
	attempt(ioctl(LISTENER, SIOCSIFADDR, &r), "SIOCSIFADDR in the node's network");
}

// ---- the control socket and the log

static void control_garbage(void) { attempt(must(write(CONTROL, "\x1e{not json]\n", 12), "write to the control socket"), "sent garbage"); }

static void control_line(void) { // one line without an end
	static char block[1 << 16];
	memset(block, 'x', sizeof block);
	long sent = 0;
	fcntl(CONTROL, F_SETFL, fcntl(CONTROL, F_GETFL) | O_NONBLOCK);
	for (int i = 0; i < 400 && sent < (8 << 20); i++) {
		struct pollfd p = { CONTROL, POLLOUT, 0 };
		if (poll(&p, 1, 100) < 1) continue;
		long n = send(CONTROL, block, sizeof block, MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN) break;
		if (n > 0) sent += n;
	}
	got("sent a line without an end");
}

static void control_flood(void) { // well-formed, more than it may
	static const char line[] = "{\"type\":\"activity\",\"requests\":1}\n";
	for (int i = 0; i < 100000; i++)
		if (send(CONTROL, line, sizeof line - 1, MSG_NOSIGNAL) < 0) break;
	got("sent a flood of messages");
}

static void control_descriptors(void) { // descriptors, for the agent to keep
	int fds[32];
	for (int i = 0; i < 32; i++) fds[i] = must(open("/dev/null", O_RDONLY), "open /dev/null");
	union { struct cmsghdr head; char space[CMSG_SPACE(sizeof fds)]; } u = { .head = { CMSG_LEN(sizeof fds), SOL_SOCKET, SCM_RIGHTS } };
	memcpy(CMSG_DATA(&u.head), fds, sizeof fds);
	struct iovec text = { "\n", 1 };
	struct msghdr m = { .msg_iov = &text, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u };
	for (int i = 0; i < 64; i++)
		if (sendmsg(CONTROL, &m, MSG_NOSIGNAL) < 0) break;
	got("sent descriptors");
}

static void control_close(void) { shutdown(CONTROL, SHUT_RDWR); got("closed the control socket"); }

static void log_garbage(void) {
	static char block[1 << 16];
	for (unsigned i = 0; i < sizeof block; i++) block[i] = (char)(0x1e + i * 7); // frames that are none
	fcntl(LOG, F_SETFL, fcntl(LOG, F_GETFL) | O_NONBLOCK);
	for (int i = 0; i < 32; i++) {
		struct pollfd p = { LOG, POLLOUT, 0 };
		if (poll(&p, 1, 100) == 1) (void)!write(LOG, block, sizeof block);
	}
	fcntl(LOG, F_SETFL, fcntl(LOG, F_GETFL) & ~O_NONBLOCK);
	got("wrote garbage into the log");
}

static void log_read(void) { char c; attempt(read(LOG, &c, 1), "read from the log's pipe"); }

// ---- what a victim holds, and what a neighbour looks for

#define IPC_KEY 0x5a4f

// Holds a secret in every place that namespaces keep apart, for five minutes.
static void hold(void) {
	const char *secret = word(0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int id = must(shmget(IPC_KEY, 4096, IPC_CREAT | 0666), "shmget");
	strcpy((char *)must((long)shmat(id, NULL, 0), "shmat"), secret);
	struct { long type; char text[256]; } message = { 1, "" };
	strncpy(message.text, secret, sizeof message.text - 1);
	int queue = must(msgget(IPC_KEY, IPC_CREAT | 0666), "msgget");
	must(msgsnd(queue, &message, sizeof message.text, IPC_NOWAIT), "msgsnd");
	int fd = must(socket(AF_UNIX, SOCK_STREAM, 0), "unix socket");
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "\0sanfran-victim" };
	must(bind(fd, (struct sockaddr *)&a, offsetof(struct sockaddr_un, sun_path) + 15), "bind");
	must(listen(fd, 8), "listen");
	printf("holding\n");
	fflush(stdout);
	alarm(300);
	for (;;) {
		int conn = accept(fd, NULL, NULL);
		if (conn >= 0) { (void)!write(conn, secret, strlen(secret)); close(conn); }
	}
}

static void find_shm(void) {
	int id = shmget(IPC_KEY, 0, 0);
	if (id < 0) refused("shmget");
	got("found a shared memory segment");
}

static void find_queue(void) {
	int id = msgget(IPC_KEY, 0);
	if (id < 0) refused("msgget");
	got("found a message queue");
}

static void find_socket(void) {
	int fd = must(socket(AF_UNIX, SOCK_STREAM, 0), "unix socket");
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "\0sanfran-victim" };
	attempt(connect(fd, (struct sockaddr *)&a, offsetof(struct sockaddr_un, sun_path) + 15), "connect to an abstract socket");
}

// Waits for anybody to open, read or close files.
static void watch(void) {
	int fd = must(inotify_init1(IN_CLOEXEC), "inotify");
	for (int i = 0; words[i]; i++) must(inotify_add_watch(fd, words[i], IN_ALL_EVENTS), words[i]);
	struct pollfd p = { fd, POLLIN, 0 };
	if (poll(&p, 1, 5000) == 0) { printf("refused NONE saw nothing\n"); exit(0); }
	got("sees what another opens");
}

// Says where the listener is: what a hostile neighbour might learn.
static void whereabouts(void) {
	struct sockaddr_in a;
	socklen_t size = sizeof a;
	must(getsockname(LISTENER, (struct sockaddr *)&a, &size), "getsockname");
	printf("got %s:%d\n", inet_ntoa(a.sin_addr), ntohs(a.sin_port));
	exit(0);
}

// ---- what outlives its parent, and what eats

// A process that wants to stay: of a session of its own, orphaned, deaf to
// signals, with the listener. It says so to a witness ten times a second, for
// two minutes. Arguments: the witness's address, and a name.
static void stay(void) {
	struct sockaddr_in witness = address(word(0));
	const char *name = word(1);
	if (must(fork(), "fork") > 0) got("left a daemon");
	setsid();
	if (fork() > 0) _exit(0);
	for (int s = 1; s < 65; s++) signal(s, SIG_IGN);
	if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)) _exit(1);
	prctl(PR_SET_NAME, "sanfran-daemon");
	char request[256];
	snprintf(request, sizeof request, "GET /beat?name=%s HTTP/1.0\r\n\r\n", name);
	for (int i = 0; i < 1200; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		struct timeval second = { 1, 0 };
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &second, sizeof second);
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
		char c;
		if (connect(fd, (struct sockaddr *)&witness, sizeof witness) == 0 && send(fd, request, strlen(request), MSG_NOSIGNAL) > 0) (void)!read(fd, &c, 1);
		close(fd);
		usleep(100000);
	}
	_exit(0);
}

static double since(struct timespec begun) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - begun.tv_sec) + (double)(now.tv_nsec - begun.tv_nsec) / 1e9;
}

// Forks as fast as it can, each child too, up to 8192 of them and some seconds.
static void fork_bomb(void) {
	double seconds = atof(word(0));
	struct timespec begun;
	clock_gettime(CLOCK_MONOTONIC, &begun);
	int group = getpid(), children = 0, denied = 0;
	setpgid(0, 0);
	signal(SIGCHLD, SIG_IGN);
	while (since(begun) < seconds && children < 8192) {
		int pid = fork();
		if (pid < 0) { denied = errno; usleep(1000); continue; }
		if (pid == 0) {
			alarm((unsigned)seconds + 2);
			while (since(begun) < seconds) {
				int grand = fork();
				if (grand == 0) { alarm((unsigned)seconds + 2); pause(); _exit(0); }
				if (grand < 0) usleep(1000);
			}
			_exit(0);
		}
		children++;
	}
	signal(SIGTERM, SIG_IGN);
	for (int i = 0; i < 5; i++) { kill(-group, SIGTERM); usleep(20000); }
	if (!denied) got("forked without end");
	errno = denied;
	refused("fork");
}

static void spin(void) {
	double seconds = atof(word(0));
	int threads = 8;
	struct timespec begun;
	clock_gettime(CLOCK_MONOTONIC, &begun);
	for (int i = 1; i < threads; i++)
		if (fork() == 0) { prctl(PR_SET_PDEATHSIG, SIGKILL); while (since(begun) < seconds); _exit(0); }
	while (since(begun) < seconds);
	got("spun");
}

// What the kernel counts by the user who made the user namespace, which is the
// same for all containers: one takes all of it, for fifteen seconds, and another
// uses one.

static long inotify_once(void) { return inotify_init1(IN_CLOEXEC); }

static long timer_once(void) {
	timer_t timer;
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
	return timer_create(CLOCK_MONOTONIC, &event, &timer);
}

static long queue_once(void) {
	static int n;
	char name[64];
	snprintf(name, sizeof name, "/sanfran-%d-%d", getpid(), n++);
	struct mq_attr attr = { .mq_maxmsg = 10, .mq_msgsize = 8192 };
	mqd_t q = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &attr);
	if (q != (mqd_t)-1) mq_unlink(name);
	return q;
}

static long lock_once(void) {
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return page == MAP_FAILED ? -1 : mlock(page, 4096);
}

// Another file for each, watched by as many instances as there are: a file costs
// more memory than a watch, of which the container has a limit, too.
static long watch_once(void) {
	enum { instances = 8 };
	static int instance[instances], watched;
	char file[64];
	snprintf(file, sizeof file, "/tmp/watched-%d-%d", getpid(), watched / instances);
	int *fd = &instance[watched % instances];
	if (watched < instances) *fd = must(inotify_init1(IN_CLOEXEC), "inotify");
	if (watched % instances == 0) close(must(open(file, O_CREAT | O_WRONLY, 0600), "make a file"));
	watched++;
	return inotify_add_watch(*fd, file, IN_OPEN);
}

static long terminal_once(void) { return open("/dev/ptmx", O_RDWR | O_NOCTTY); }

static long aio_once(void) {
	unsigned long context = 0; // each is a mapping, too, of which a process has a number
	return syscall(SYS_io_setup, 16, &context);
}

static const struct { const char *name; long (*once)(void); } shared[] = {
	{ "inotify", inotify_once }, { "watches", watch_once }, { "pty", terminal_once }, { "aio", aio_once },
	{ "timer", timer_once }, { "queue", queue_once }, { "lock", lock_once },
};

static long (*which(void))(void) {
	for (unsigned i = 0; i < sizeof shared / sizeof *shared; i++)
		if (!strcmp(shared[i].name, word(0))) return shared[i].once;
	errno = EINVAL;
	broken(word(0));
	return NULL;
}

static void use(void) { attempt(which()(), word(0)); }

#define MOST (1 << 18)

static void take_all(void) {
	long (*once)(void) = which();
	int taken = 0;
	alarm(20);
	while (taken < MOST && once() >= 0) taken++;
	printf("holding %d %s\n", taken, taken < MOST ? strerrorname_np(errno) : "");
	fflush(stdout);
	sleep(15);
	exit(0);
}

static const struct { const char *name; void (*run)(void); } attacks[] = {
	{ "mount", mount_tmpfs }, { "fsopen", mount_new }, { "open_tree", mount_tree }, { "bind-mount", mount_bind },
	{ "remount-root", remount_root }, { "unmask-proc", unmask }, { "unmount-tmp", unmount_tmp }, { "pivot_root", pivot_root_ }, { "chroot", chroot_ },
	{ "unshare-user", unshare_user }, { "unshare-mount", unshare_mount }, { "unshare-net", unshare_net }, { "unshare-cgroup", unshare_cgroup },
	{ "clone-user", clone_user }, { "clone3-user", clone3_user }, { "setns", setns_ }, { "open_by_handle_at", handle },
	{ "unshare-by-int80", unshare32 }, { "unshare-by-x32", unsharex32 },
	{ "bpf-map", bpf_map }, { "bpf-program", bpf_prog }, { "perf_event_open", perf }, { "userfaultfd", uffd }, { "io_uring", uring },
	{ "keyctl", keys_get }, { "add_key", keys_add }, { "fanotify", fanotify }, { "personality", personality_ }, { "dmesg", dmesg }, { "quotactl", quota },
	{ "kexec", kexec }, { "reboot", reboot_ }, { "init_module", module }, { "swapoff", swap }, { "acct", account }, { "sethostname", hostname },
	{ "ioperm", ports }, { "clock_settime", clock_set }, { "adjtimex", clock_adjust }, { "mknod-mem", node_mem }, { "mknod-disk", node_disk }, { "tiocsti", typed },
	{ "setuid", become_root }, { "setgid", become_group }, { "setgroups", become_groups }, { "capset", capabilities }, { "setuid-file", setuid_file },
	{ "no_new_privs", privileges }, { "nice", nice_ }, { "realtime", realtime }, { "memlock", locked },
	{ "ptrace", trace }, { "process_vm_readv", read_memory }, { "kill", kill_all },
	{ "raw-socket", raw }, { "packet-socket", packet }, { "vsock", vsock }, { "af_alg", alg }, { "socket-families", families }, { "vsock-by-int80", vsock32 }, { "af_alg-by-int80", alg32 },
	{ "set-address", own_address }, { "nftables", netfilter },
	{ "listener-connect", listener_connect }, { "accepted-connect", accepted_connect }, { "accepted-fast-open", accepted_fast_open },
	{ "accepted-source", accepted_source }, { "accepted-device", accepted_device }, { "accepted-listen", accepted_listen }, { "steal-port", steal_port }, { "take-ports", take_ports }, { "take-port", take_port },
	{ "clear-mark", clear_mark }, { "clear-accepted-mark", clear_accepted_mark }, { "transparent", transparent }, { "tcp-repair", repair },
	{ "force-buffer", force_buffer }, { "node-namespace", host_namespace }, { "node-interface", host_interface }, { "node-address", host_address },
	{ "control-garbage", control_garbage }, { "control-line", control_line }, { "control-flood", control_flood }, { "control-descriptors", control_descriptors },
	{ "control-close", control_close }, { "log-garbage", log_garbage }, { "log-read", log_read },
	{ "hold", hold }, { "find-shm", find_shm }, { "find-queue", find_queue }, { "find-socket", find_socket }, { "watch", watch }, { "whereabouts", whereabouts },
	{ "take-all", take_all }, { "use", use },
	{ "stay", stay }, { "fork-bomb", fork_bomb }, { "spin", spin },
};

int main(int argc, char **argv) {
	if (argc < 2) { fprintf(stderr, "usage: native attack [argument…]\n"); return 2; }
	words = argv + 2;
	for (unsigned i = 0; i < sizeof attacks / sizeof *attacks; i++)
		if (!strcmp(attacks[i].name, argv[1])) attacks[i].run();
	errno = EINVAL;
	broken("no attack of that name");
}
