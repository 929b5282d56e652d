/* Many small reads in one call, so that Python's lock changes hands once for a batch and not once for a row. */

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

/* Reads sizes[i] bytes from places[i] on, one piece after the other, into out. The system is told of all pieces first, so
   that a disk can fetch many at once. Returns how many bytes were read before the file ended, or -errno. */
int64_t read_pieces(int file, int64_t count, const int64_t *places, const int64_t *sizes, char *out)
{
    int64_t total = 0;
#ifdef POSIX_FADV_WILLNEED
    for (int64_t i = 0; count > 1 && i < count; i++)
        posix_fadvise(file, places[i], sizes[i], POSIX_FADV_WILLNEED);
#endif
    for (int64_t i = 0; i < count; i++) {
        int64_t done = 0;
        while (done < sizes[i]) {
            ssize_t step = pread(file, out + total, (size_t)(sizes[i] - done), (off_t)(places[i] + done));
            if (step < 0 && errno == EINTR)
                continue;
            if (step < 0)
                return -errno;
            if (step == 0)
                return total;
            done += step;
            total += step;
        }
    }
    return total;
}
