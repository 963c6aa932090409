/* Faults at the n-th file call of a process: loaded with LD_PRELOAD, armed by fault_arm (benchmarks/fault_files.py).

   Only calls on files below `root` count. What a call does at its turn:
     COUNT       nothing
     BEFORE      SIGKILL before the call
     INSIDE      half of a write, then SIGKILL; SIGKILL after any other call
     AFTER       SIGKILL after the call
     ONCE        the call fails with `error`
     FROM_HERE   this call and every later one fails with `error`
     POWER       every file falls back to its size at its last fsync, then SIGKILL
   An fsync is only noted, not done: the campaign would wait for nothing else. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OFF, COUNT, BEFORE, INSIDE, AFTER, ONCE, FROM_HERE, POWER };
enum { WRITE = 1, OPEN = 2, RENAME = 4, UNLINK = 8, MKDIR = 16, FSYNC = 32, TRUNCATE = 64, FLOCK = 128, READ = 256 };
enum { GO_ON, FAIL, TEAR, DIE_AFTER };

static char root[PATH_MAX];
static size_t root_length;
static int mode, error, kinds;
static long target;
static atomic_long calls, calls_of[9]; /* of a kind, by the place of its bit */

/* Files written since the process was armed, and how much of each is on the disk. */
typedef struct { dev_t device; ino_t inode; off_t durable; } File;
static File files[4096];
static int known;

void fault_arm(const char *path, int new_mode, long n, int new_error, int new_kinds) {
    snprintf(root, sizeof root, "%s", path);
    root_length = strlen(root);
    target = n; error = new_error; kinds = new_kinds;
    calls = 0; known = 0; mode = new_mode;
    for (int i = 0; i < 9; i++) calls_of[i] = 0;
}

long fault_calls(int kind) { return calls_of[__builtin_ctz(kind)]; }

#define REAL(name) static __typeof__(name) *real; if (!real) real = dlsym(RTLD_NEXT, #name)

static int below_root(const char *path) {
    char whole[2 * PATH_MAX];
    if (!mode || !path) return 0;
    if (path[0] != '/') {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(whole, sizeof whole, "%s/%s", here, path);
        path = whole;
    }
    return !strncmp(path, root, root_length);
}

static int descriptor_below_root(int fd) {
    char link[64], path[PATH_MAX];
    if (!mode || fd < 3) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return !strncmp(path, root, root_length);
}

static File *find(const struct stat *s) {
    for (int i = 0; i < known; i++)
        if (files[i].device == s->st_dev && files[i].inode == s->st_ino) return files + i;
    return 0;
}

/* The file changes now; so much of it was on the disk before, unless it is known already. */
static void changed(int fd, off_t at_most) {
    struct stat s;
    if (fstat(fd, &s) || !S_ISREG(s.st_mode)) return;
    File *file = find(&s);
    if (!file) {
        if (known == 4096) return;
        file = files + known++;
        *file = (File){s.st_dev, s.st_ino, s.st_size};
    }
    if (file->durable > at_most) file->durable = at_most;
}

static void synced(int fd) {
    struct stat s;
    File *file = fstat(fd, &s) ? 0 : find(&s);
    if (file) file->durable = s.st_size;
}

static int fall_back(const char *path, const struct stat *s, int type, struct FTW *unused) {
    (void)unused;
    File *file = type == FTW_F ? find(s) : 0;
    if (file && s->st_size > file->durable && truncate(path, file->durable)) return 0;
    return 0;
}

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

static int turn(int kind) {
    if (!(kinds & kind)) return GO_ON;
    long n = ++calls;
    calls_of[__builtin_ctz(kind)]++;
    if (mode == FROM_HERE) return n >= target ? FAIL : GO_ON;
    if (n != target) return GO_ON;
    switch (mode) {
    case POWER: mode = OFF; nftw(root, fall_back, 16, FTW_PHYS); die(); break;
    case BEFORE: die(); break;
    case ONCE: return FAIL;
    case INSIDE: return kind == WRITE ? TEAR : DIE_AFTER;
    case AFTER: return DIE_AFTER;
    }
    return GO_ON;
}

/* A call that has no part to be torn into. */
#define FAULTY(kind, concerned, call)                    \
    do {                                                 \
        if (!mode || !(concerned)) return call;          \
        int what = turn(kind);                           \
        if (what == FAIL) { errno = error; return -1; }  \
        __typeof__(call) result = call;                  \
        if (what == DIE_AFTER) die();                    \
        return result;                                   \
    } while (0)

ssize_t write(int fd, const void *bytes, size_t n) {
    REAL(write);
    if (!descriptor_below_root(fd)) return real(fd, bytes, n);
    int what = turn(WRITE);
    if (what == FAIL) { errno = error; return -1; }
    changed(fd, LONG_MAX);
    ssize_t written = real(fd, bytes, what == TEAR ? n / 2 : n);
    if (what != GO_ON) die();
    return written;
}

ssize_t read(int fd, void *bytes, size_t n) { REAL(read); FAULTY(READ, descriptor_below_root(fd), real(fd, bytes, n)); }

static int opening(int fd, int flags, int fresh) {
    if (fd >= 0 && (fresh || flags & O_TRUNC)) changed(fd, 0);
    return fd;
}

#define OPENING(path, call)                                                     \
    mode_t permissions = 0;                                                     \
    if (flags & (O_CREAT | O_TMPFILE)) {                                        \
        va_list more; va_start(more, flags); permissions = va_arg(more, mode_t); va_end(more); \
    }                                                                           \
    struct stat s;                                                              \
    if (!(flags & (O_WRONLY | O_RDWR)) || !below_root(path)) return call;       \
    int fresh = stat(path, &s) != 0;                                            \
    FAULTY(OPEN, fresh || flags & O_TRUNC, opening(call, flags, fresh))

int open(const char *path, int flags, ...) { REAL(open); OPENING(path, real(path, flags, permissions)); }
int open64(const char *path, int flags, ...) { REAL(open64); OPENING(path, real(path, flags, permissions)); }
int openat(int at, const char *path, int flags, ...) { REAL(openat); OPENING(path, real(at, path, flags, permissions)); }
int openat64(int at, const char *path, int flags, ...) { REAL(openat64); OPENING(path, real(at, path, flags, permissions)); }

int rename(const char *from, const char *to) { REAL(rename); FAULTY(RENAME, below_root(to), real(from, to)); }
int unlink(const char *path) { REAL(unlink); FAULTY(UNLINK, below_root(path), real(path)); }
int rmdir(const char *path) { REAL(rmdir); FAULTY(UNLINK, below_root(path), real(path)); }
int mkdir(const char *path, mode_t m) { REAL(mkdir); FAULTY(MKDIR, below_root(path), real(path, m)); }
int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat);
    FAULTY(UNLINK, path[0] == '/' || at == AT_FDCWD ? below_root(path) : descriptor_below_root(at), real(at, path, flags));
}

static int cut(int fd, off_t size, int result) { changed(fd, size); return result; }
int ftruncate(int fd, off_t n) { REAL(ftruncate); FAULTY(TRUNCATE, descriptor_below_root(fd), cut(fd, n, real(fd, n))); }
int ftruncate64(int fd, off64_t n) { REAL(ftruncate64); FAULTY(TRUNCATE, descriptor_below_root(fd), cut(fd, n, real(fd, n))); }
int truncate(const char *path, off_t n) { REAL(truncate); FAULTY(TRUNCATE, below_root(path), real(path, n)); }
int truncate64(const char *path, off64_t n) { REAL(truncate64); FAULTY(TRUNCATE, below_root(path), real(path, n)); }

static int noted(int fd) { synced(fd); return 0; }
int fsync(int fd) { REAL(fsync); if (!descriptor_below_root(fd)) return real(fd); FAULTY(FSYNC, 1, noted(fd)); }
int fdatasync(int fd) { REAL(fdatasync); if (!descriptor_below_root(fd)) return real(fd); FAULTY(FSYNC, 1, noted(fd)); }
int flock(int fd, int how) { REAL(flock); FAULTY(FLOCK, descriptor_below_root(fd), real(fd, how)); }
