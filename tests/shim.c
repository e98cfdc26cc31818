/* A preloaded library between a program and its file system: faults at exact moments.

   It looks at files ROOT/SCENARIO/made/... only, where ROOT is the variable CHAOS_ROOT, and reads
   what to do from ROOT/SCENARIO/control, which the controller writes (shim.py):

     rules/ID      one line "OP WHEN PATTERN ACTION NUMBER"; the first process that meets it renames
                   it to claimed/ID, so that it happens once. A rule whose ID begins with `every-`
                   stays and happens each time, in NUMBER of a hundred cases.
     release/ID    lets a thread go that waits at a rule of action `hold`; its word is what comes
                   next: `go`, `kill`, or `eat` (take memory until somebody ends the process).
     delay         milliseconds for which a process does not see the files of others: as NFS's caches
                   have it, listings lack them, and a name that it looked for in vain stays absent.
     log           JSON lines: each operation that changes the directory, and each rule that was met.

   OP is create, write, fsync, syncdir, link, rename or unlink; WHEN is before or after; PATTERN is
   one of fnmatch(3) over the path below `made`. ACTION is kill, stop, hold, truncate (halve the file
   and die), sleep (NUMBER milliseconds) or errno (fail with NUMBER). */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MOST_FDS 65536
#define MOST_NAMES 65536
#define REAL(name) ((__typeof__(&name))real(#name))

static const char *root;
static size_t root_length;
static unsigned char watched[MOST_FDS];

struct names { /* a set that only grows */
  uint64_t hashes[MOST_NAMES];
  size_t count;
};
static struct names own, absent;

struct place {
  char control[PATH_MAX]; /* ROOT/SCENARIO/control */
  char path[PATH_MAX];    /* below `made` */
};

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
  root = getenv("CHAOS_ROOT");
  root_length = root ? strlen(root) : 0;
}

static double now_s(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Whether a path is a run's; says then which scenario's. */
static int find(const char *path, struct place *at) {
  if (!root || !path || strncmp(path, root, root_length) || path[root_length] != '/') return 0;
  const char *scenario = path + root_length + 1;
  const char *rest = strchr(scenario, '/');
  if (!rest || strncmp(rest, "/made", 5) || (rest[5] && rest[5] != '/')) return 0;
  snprintf(at->control, sizeof at->control, "%.*s/control", (int)(rest - path), path);
  snprintf(at->path, sizeof at->path, "%s", rest[5] ? rest + 6 : ""); /* the run itself: "" */
  return 1;
}

static int find_fd(int fd, struct place *at) {
  if (!root) return 0;
  char link_name[64], path[PATH_MAX];
  snprintf(link_name, sizeof link_name, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link_name, path, sizeof path - 1);
  if (size <= 0) return 0;
  path[size] = 0;
  return find(path, at);
}

static int real_open(const char *path, int flags) { return REAL(open)(path, flags | O_CLOEXEC, 0644); }

static void note(const struct place *at, const char *op, const char *more, long size) {
  char name[PATH_MAX + 8], line[PATH_MAX + 512];
  snprintf(name, sizeof name, "%s/log", at->control);
  int fd = real_open(name, O_WRONLY | O_APPEND | O_CREAT);
  if (fd < 0) return;
  int length = snprintf(line, sizeof line,
                        "{\"at\": %.6f, \"pid\": %d, \"op\": \"%s\", \"path\": \"%s\","
                        " \"size\": %ld%s}\n",
                        now_s(), getpid(), op, at->path, size, more);
  if (REAL(write)(fd, line, (size_t)length) != length) abort();
  REAL(close)(fd);
}

static int is_there(const struct place *at, const char *folder, const char *id) {
  char name[PATH_MAX + 300];
  snprintf(name, sizeof name, "%s/%s/%s", at->control, folder, id);
  return REAL(access)(name, F_OK) == 0;
}

static void read_word(const struct place *at, const char *folder, const char *id, char *word,
                      size_t size) {
  char name[PATH_MAX + 300];
  word[0] = 0;
  snprintf(name, sizeof name, "%s/%s%s%s", at->control, folder, *id ? "/" : "", id);
  int fd = real_open(name, O_RDONLY);
  if (fd < 0) return;
  ssize_t got = read(fd, word, size - 1);
  word[got > 0 ? got : 0] = 0;
  REAL(close)(fd);
}

static void eat(void) {
  for (;;) {
    char *some = malloc(1 << 24);
    if (some) memset(some, 1, 1 << 24);
    usleep(20000); /* slow enough for a monitor to see it come */
  }
}

static void hold(const struct place *at, const char *id) {
  char word[16];
  for (int i = 0; i < 12000; i++) {
    read_word(at, "release", id, word, sizeof word);
    if (!word[0]) read_word(at, "release", "all", word, sizeof word);
    if (word[0] || !is_there(at, "claimed", id)) break;
    usleep(10000);
  }
  note(at, "released", "", 0);
  if (!strncmp(word, "kill", 4)) raise(SIGKILL);
  if (!strncmp(word, "eat", 3)) eat();
}

static int perform(const struct place *at, const char *id, const char *action, long number, int fd) {
  if (!strcmp(action, "kill")) kill(getpid(), SIGKILL);
  if (!strcmp(action, "stop")) kill(getpid(), SIGSTOP);
  if (!strcmp(action, "hold")) hold(at, id);
  if (!strcmp(action, "sleep")) usleep((useconds_t)number * 1000);
  if (!strcmp(action, "truncate") && fd >= 0) {
    struct stat about;
    if (fstat(fd, &about) == 0 && ftruncate(fd, about.st_size / 2) == 0) kill(getpid(), SIGKILL);
  }
  return strcmp(action, "errno") ? 0 : (int)number;
}

static int is_due(const char *id, const struct place *at, long *number, const char *action) {
  if (!strncmp(id, "every-", 6)) {
    static __thread unsigned seed;
    if (!seed) seed = (unsigned)getpid() ^ (unsigned)now_s();
    long percent = *number;
    if (!strcmp(action, "errno")) *number = EIO;
    return strcmp(action, "sleep") == 0 || rand_r(&seed) % 100 < percent;
  }
  char from[PATH_MAX + 300], to[PATH_MAX + 300];
  snprintf(from, sizeof from, "%s/rules/%s", at->control, id);
  snprintf(to, sizeof to, "%s/claimed/%s", at->control, id);
  return REAL(rename)(from, to) == 0;
}

/* Carry out the rules for an operation; gives an errno when it is to fail. */
static int meet(const struct place *at, const char *op, const char *when, int fd) {
  char folder[PATH_MAX + 8];
  int saved = errno, failure = 0;
  snprintf(folder, sizeof folder, "%s/rules", at->control);
  DIR *rules = REAL(opendir)(folder);
  struct dirent64 *entry;
  while (rules && !failure && (entry = REAL(readdir64)(rules))) {
    char id[256], line[1024], its_op[16], its_when[16], pattern[512], action[16], more[700];
    long number = 0;
    snprintf(id, sizeof id, "%s", entry->d_name);
    if (id[0] == '.') continue;
    read_word(at, "rules", id, line, sizeof line);
    if (sscanf(line, "%15s %15s %511s %15s %ld", its_op, its_when, pattern, action, &number) != 5)
      continue;
    if (strcmp(its_op, op) || strcmp(its_when, when) || fnmatch(pattern, at->path, 0)) continue;
    if (!is_due(id, at, &number, action)) continue;
    snprintf(more, sizeof more, ", \"rule\": \"%s\", \"when\": \"%s\", \"action\": \"%s\"", id, when,
             action);
    note(at, op, more, number);
    failure = perform(at, id, action, number, fd);
  }
  if (rules) closedir(rules);
  errno = saved;
  return failure;
}

/* Visibility: what this process made, it sees; what others made, it may see a while later. */

static uint64_t hash_of(const char *path) {
  uint64_t hash = 14695981039346656037u;
  for (; *path; path++) hash = (hash ^ (unsigned char)*path) * 1099511628211u;
  return hash ? hash : 1;
}

static void remember(struct names *set, const char *path) {
  if (set->count < MOST_NAMES) set->hashes[set->count++] = hash_of(path);
}

static int holds(const struct names *set, const char *path) {
  uint64_t hash = hash_of(path);
  for (size_t i = 0; i < set->count; i++)
    if (set->hashes[i] == hash) return 1;
  return 0;
}

static int is_hidden(const char *path, int is_listing) {
  struct place at;
  struct stat about;
  char word[16];
  if (!find(path, &at)) return 0;
  read_word(&at, "delay", "", word, sizeof word);
  if (!word[0] || holds(&own, path)) return 0;
  int failed = REAL(stat)(path, &about);
  if (failed && errno == ENOENT && !holds(&absent, path)) remember(&absent, path);
  if (failed || !S_ISREG(about.st_mode)) return 0;
  if (!is_listing && !holds(&absent, path)) return 0;
  double age_s = now_s() - (double)about.st_ctim.tv_sec - 1e-9 * (double)about.st_ctim.tv_nsec;
  return age_s < atof(word) / 1000;
}

/* The functions in between. */

static int opened(int (*function)(const char *, int, ...), const char *path, int flags, mode_t mode) {
  struct place at;
  if (!find(path, &at)) return function(path, flags, mode);
  int makes = (flags & O_CREAT) && (flags & O_EXCL), failure;
  if (!(flags & O_CREAT) && is_hidden(path, 0)) {
    errno = ENOENT;
    return -1;
  }
  if (makes && (failure = meet(&at, "create", "before", -1))) {
    errno = failure;
    return -1;
  }
  int fd = function(path, flags, mode);
  if (makes && (fd >= 0 || errno == EEXIST)) remember(&own, path);
  if (fd >= 0 && fd < MOST_FDS && (flags & O_ACCMODE) != O_RDONLY) watched[fd] = 1;
  if (makes && fd >= 0) note(&at, "create", "", 0);
  return fd;
}

#define OPEN(name)                                                 \
  int name(const char *path, int flags, ...) {                     \
    va_list rest;                                                  \
    va_start(rest, flags);                                         \
    mode_t mode = (flags & (O_CREAT | __O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                  \
    return opened(REAL(name), path, flags, mode);                  \
  }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *data, size_t size) {
  struct place at;
  if (fd >= 0 && fd < MOST_FDS && watched[fd]) {
    if (!find_fd(fd, &at)) {
      watched[fd] = 0;
    } else {
      int failure = meet(&at, "write", "before", fd);
      if (failure && size > 1) { /* a full disk takes a part first */
        if (REAL(write)(fd, data, size / 2) < 0) return -1;
      }
      if (failure) {
        errno = failure;
        return -1;
      }
    }
  }
  return REAL(write)(fd, data, size);
}

int fsync(int fd) {
  struct place at;
  struct stat about;
  if (!root || fstat(fd, &about) || !find_fd(fd, &at)) return REAL(fsync)(fd);
  const char *op = S_ISDIR(about.st_mode) ? "syncdir" : "fsync";
  int failure = meet(&at, op, "before", fd);
  if (failure) {
    errno = failure;
    return -1;
  }
  int result = REAL(fsync)(fd);
  if (result == 0) note(&at, op, "", (long)about.st_size);
  if (result == 0) meet(&at, op, "after", fd);
  return result;
}

static int moved(const char *op, int (*function)(const char *, const char *), const char *from,
                 const char *to) {
  struct place at, source;
  if (!find(to, &at)) return function(from, to);
  int failure = meet(&at, op, "before", -1);
  if (failure) {
    errno = failure;
    return -1;
  }
  int result = function(from, to), saved = errno;
  char more[PATH_MAX + 64];
  snprintf(more, sizeof more, ", \"result\": %d, \"from\": \"%s\"", result ? saved : 0,
           find(from, &source) ? source.path : "");
  note(&at, op, more, 0);
  if (result == 0 || saved == EEXIST) remember(&own, to);
  if (result == 0) meet(&at, op, "after", -1);
  errno = saved;
  return result;
}

int link(const char *from, const char *to) { return moved("link", REAL(link), from, to); }

int rename(const char *from, const char *to) { return moved("rename", REAL(rename), from, to); }

int unlink(const char *path) {
  struct place at;
  if (!find(path, &at)) return REAL(unlink)(path);
  int failure = meet(&at, "unlink", "before", -1);
  if (failure) {
    errno = failure;
    return -1;
  }
  int result = REAL(unlink)(path);
  if (result == 0) note(&at, "unlink", "", 0);
  return result;
}

#define STAT(name, kind)                        \
  int name(const char *path, struct kind *to) { \
    if (is_hidden(path, 0)) {                      \
      errno = ENOENT;                           \
      return -1;                                \
    }                                           \
    return REAL(name)(path, to);                \
  }
STAT(stat, stat)
STAT(stat64, stat64)
STAT(lstat, stat)
STAT(lstat64, stat64)

int access(const char *path, int mode) {
  if (is_hidden(path, 0)) {
    errno = ENOENT;
    return -1;
  }
  return REAL(access)(path, mode);
}

struct dirent64 *readdir64(DIR *folder) {
  struct dirent64 *entry;
  char link_name[64], path[PATH_MAX], whole[PATH_MAX + 300];
  while ((entry = REAL(readdir64)(folder)) && root) {
    snprintf(link_name, sizeof link_name, "/proc/self/fd/%d", dirfd(folder));
    ssize_t size = readlink(link_name, path, sizeof path - 1);
    if (size <= 0) break;
    path[size] = 0;
    snprintf(whole, sizeof whole, "%s/%s", path, entry->d_name);
    if (!is_hidden(whole, 1)) break;
  }
  return entry;
}
