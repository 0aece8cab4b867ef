/* Runs a program as the NixOS module `services.matrix-conduit` does: `sandbox DIRECTORY PROGRAM ARGUMENT...`.
 *
 * The seccomp filter kills whatever calls something outside of `allowed.h`, which the test writes (the system calls of
 * systemd's `@system-service ~@privileged`), and refuses, as systemd does, sockets other than of the internet
 * (RestrictAddressFamilies), memory that is writable and executable (MemoryDenyWriteExecute), new namespaces, realtime
 * scheduling and other personalities. Where the kernel lets it, the file system is read-only but for DIRECTORY, and the
 * user is one without any right. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const int allowed[] = {
#include "allowed.h"
};

static struct sock_filter filter[4096];
static unsigned short length;

static void add(unsigned short code, unsigned char yes, unsigned char no, unsigned value) {
    filter[length++] = (struct sock_filter){code, yes, no, value};
}

static void load(size_t offset) { add(BPF_LD | BPF_W | BPF_ABS, 0, 0, offset); }
static void answer(unsigned action) { add(BPF_RET | BPF_K, 0, 0, action); }

/* What follows, of `count` instructions, is for this system call alone. */
static void begin(int call, unsigned char count) {
    load(offsetof(struct seccomp_data, nr));
    add(BPF_JMP | BPF_JEQ | BPF_K, 0, count, call);
}

/* Fails with `error` where argument `number` (its lower half, on little-endian machines) has any of `bits`. */
static void refuse_bits(int call, int number, unsigned bits, int error) {
    begin(call, 3);
    load(offsetof(struct seccomp_data, args) + 8 * number);
    add(BPF_JMP | BPF_JSET | BPF_K, 0, 1, bits);
    answer(SECCOMP_RET_ERRNO | error);
}

static void refuse(int call, int error) {
    begin(call, 1);
    answer(SECCOMP_RET_ERRNO | error);
}

static void build(void) {
    load(offsetof(struct seccomp_data, arch));
#if defined(__x86_64__)
    add(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_X86_64);
#elif defined(__aarch64__)
    add(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_AARCH64);
#else
#error "another processor"
#endif
    answer(SECCOMP_RET_KILL_PROCESS);

    begin(SYS_socket, 4);
    load(offsetof(struct seccomp_data, args));
    add(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, AF_INET);
    add(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AF_INET6);
    answer(SECCOMP_RET_ERRNO | EAFNOSUPPORT);

    begin(SYS_mmap, 4);
    load(offsetof(struct seccomp_data, args) + 8 * 2);
    add(BPF_ALU | BPF_AND | BPF_K, 0, 0, PROT_WRITE | PROT_EXEC);
    add(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, PROT_WRITE | PROT_EXEC);
    answer(SECCOMP_RET_ERRNO | EPERM);
    refuse_bits(SYS_mprotect, 2, PROT_EXEC, EPERM);
    refuse_bits(SYS_pkey_mprotect, 2, PROT_EXEC, EPERM);

    refuse_bits(SYS_clone, 0, CLONE_NEWNS | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS, EPERM);
    refuse(SYS_clone3, ENOSYS);
    refuse(SYS_unshare, EPERM);
    refuse(SYS_setns, EPERM);
    refuse(SYS_sched_setscheduler, EPERM);
    refuse(SYS_sched_setattr, EPERM);
    refuse(SYS_personality, EPERM);
    refuse_bits(SYS_fchmod, 1, S_ISUID | S_ISGID, EPERM);
    refuse_bits(SYS_fchmodat, 2, S_ISUID | S_ISGID, EPERM);

    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
        begin(allowed[i], 1);
        answer(SECCOMP_RET_ALLOW);
    }
    answer(SECCOMP_RET_KILL_PROCESS);
}

static int write_file(const char *path, const char *text) {
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0) return -1;
    int done = write(file, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -1;
    close(file);
    return done;
}

/* A user without rights, and a file system that can be written in one place only. */
static int enclose(const char *directory) {
    char map[64];
    snprintf(map, sizeof map, "61184 %u 1\n", (unsigned)getuid());
    char groups[64];
    snprintf(groups, sizeof groups, "61184 %u 1\n", (unsigned)getgid());
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) return -1;
    if (write_file("/proc/self/setgroups", "deny") || write_file("/proc/self/uid_map", map) ||
        write_file("/proc/self/gid_map", groups))
        return -1;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount(directory, directory, NULL, MS_BIND | MS_REC, NULL))
        return -1;
    struct mount_attr readonly = {.attr_set = MOUNT_ATTR_RDONLY};
    struct mount_attr writable = {.attr_clr = MOUNT_ATTR_RDONLY};
    if (syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &readonly, sizeof readonly)) return -1;
    return syscall(SYS_mount_setattr, AT_FDCWD, directory, 0, &writable, sizeof writable);
}

int main(int count, char **arguments) {
    if (count < 3) return 2;
    umask(077);
    if (enclose(arguments[1])) fprintf(stderr, "sandbox: the file system stays writable: %s\n", strerror(errno));
    if (chdir("/")) return 2;
    build();
    struct sock_fprog program = {length, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        fprintf(stderr, "sandbox: this kernel has no seccomp filters: %s\n", strerror(errno));
        return 77;
    }
    execv(arguments[2], arguments + 2);
    fprintf(stderr, "sandbox: %s: %s\n", arguments[2], strerror(errno));
    return 2;
}
