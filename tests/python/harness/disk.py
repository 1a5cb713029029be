"""A disk that is slow, does not answer, or is full, for the processes that load its library."""

from __future__ import annotations

from pathlib import Path

from .preload import compile_library

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define NEXT(name) (next ? next : (next = dlsym(RTLD_NEXT, name)))

/* Whether the disk is slow for this file: it is SLOW, or one without a name in TMPDIR. */
static int is_slow(int fd)
{
    const char *slow = getenv("SLOW"), *folder = getenv("TMPDIR");
    char link[64], name[4096];

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0)
        return 0;
    name[length] = 0;
    if (slow && strcmp(name, slow) == 0)
        return 1;
    return folder && strncmp(name, folder, strlen(folder)) == 0 && strstr(name, " (deleted)");
}

static char *place(char *path, const char *what, const char *operation)
{
    snprintf(path, 4096, "%s/%s%s", getenv("DISK"), what, operation);
    return path;
}

/* The file of an operation gets a byte for each. It waits while "hold-..." is there, and
   fails if "fail-..." is. */
static int operate(const char *operation)
{
    char path[4096];
    FILE *count = fopen(place(path, "", operation), "a");

    if (count) {
        fputc('.', count);
        fclose(count);
    }
    while (access(place(path, "hold-", operation), F_OK) == 0)
        usleep(2000);
    if (access(place(path, "fail-", operation), F_OK) != 0)
        return 0;
    errno = ENOSPC;
    return -1;
}

/* What does not want to wait gets the error REFUSAL. */
ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
    static ssize_t (*next)(int, const struct iovec *, int, off_t, int);

    if (is_slow(fd)) {
        if (flags & RWF_NOWAIT) {
            errno = atoi(getenv("REFUSAL"));
            return -1;
        }
        if (operate("read") != 0)
            return -1;
    }
    return NEXT("preadv2")(fd, iov, count, offset, flags);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset)
{
    static ssize_t (*next)(int, const void *, size_t, off_t);

    if (is_slow(fd) && operate("write") != 0)
        return -1;
    return NEXT("pwrite64")(fd, data, length, offset);
}

int ftruncate64(int fd, off_t length)
{
    static int (*next)(int, off_t);

    if (is_slow(fd) && operate("truncate") != 0)
        return -1;
    return NEXT("ftruncate64")(fd, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    static int (*next)(int, int, off_t, off_t);

    if (is_slow(fd) && operate("punch") != 0)
        return -1;
    return NEXT("fallocate")(fd, mode, offset, length);
}

int close(int fd)
{
    static int (*next)(int);

    if (is_slow(fd))
        operate("close");
    return NEXT("close")(fd);
}
"""


def compile_disk(folder: Path) -> Path:
    """The library, for ``Disk``."""
    return compile_library(SOURCE, folder)


class Disk:
    """What is done to files in its folder ``tmp`` that have no name, and to one that has.

    The operations are read, write, truncate, punch (a hole), and close.
    """

    def __init__(self, library: Path, folder: Path) -> None:
        self._library = library
        self._folder = folder
        self.tmp = folder / "tmp"
        self.tmp.mkdir(parents=True)

    def environment(self, slow: Path, refusal: int) -> dict[str, str]:
        """For a server. Who does not want to wait for the disk gets an error number."""
        return {
            "LD_PRELOAD": str(self._library),
            "DISK": str(self._folder),
            "TMPDIR": str(self.tmp),
            "SLOW": str(slow),
            "REFUSAL": str(refusal),
        }

    def hold(self, *operations: str) -> None:
        """From now on they do not come back."""
        for operation in operations:
            (self._folder / f"hold-{operation}").touch()

    def release(self, *operations: str) -> None:
        """They go on."""
        for operation in operations:
            (self._folder / f"hold-{operation}").unlink()

    def fail(self, operation: str) -> None:
        """There is no room for it."""
        (self._folder / f"fail-{operation}").touch()

    def count(self, operation: str) -> int:
        """How often it has begun."""
        try:
            return (self._folder / operation).stat().st_size
        except FileNotFoundError:
            return 0
