/* What a gated block does between its convolutions, in one pass forward and one backward. See elementwise.py.
 *
 * Arrays are images x rows x columns x channels, channels dense. A convolution gives a row, and some a column, too many:
 * its output is read where it stands, and its gradient written with zeros there.
 */
#include "arithmetic.h"

typedef struct {
  const real *at;
  long image, row, column; /* steps */
} Strided;

typedef struct {
  long channels, images, rows, columns;
} Shape;

#define MOST_TERMS 8

INLINE const real *place(const Strided *s, long i, long r, long c) {
  return s->at + i * s->image + r * s->row + c * s->column;
}

/* concat_elu of a sum. Returns 1 if there is no memory. */
int activate(const Shape *s, long count, const Strided *terms, real *activated) {
  long n = s->channels;
  real *sum = malloc(n * sizeof(real));
  if (!sum || count > MOST_TERMS) {
    free(sum);
    return 1;
  }
  for (long i = 0; i < s->images; i++)
    for (long r = 0; r < s->rows; r++)
      for (long c = 0; c < s->columns; c++, activated += 2 * n) {
        const real *value = place(terms, i, r, c);
        if (count > 1) {
          const real *second = place(terms + 1, i, r, c);
          for (long k = 0; k < n; k++) sum[k] = value[k] + second[k];
          for (long t = 2; t < count; t++) add_to(sum, place(terms + t, i, r, c), n);
          value = sum;
        }
        concat_elu(value, activated, n);
      }
  free(sum);
  return 0;
}

/* d concat_elu(v) / d v from what concat_elu gave: of elu(v) and elu(-v), the negative one is exp(-|v|) - 1. */
INLINE real back(real positive, real negative, real up, real down) {
  real least = positive < negative ? positive : negative;
  return positive > 0 ? up - down * (least + 1) : up * (least + 1) - down;
}

/* dense: (images, rows, columns, channels), or none; padded: the same with `height` rows and `width` columns, or none. */
void activate_back(const Shape *s, const real *activated, const real *gradient, real *dense, real *padded, long height,
                   long width) {
  long n = s->channels;
  for (long i = 0; i < s->images; i++)
    for (long r = 0; r < (padded ? height : s->rows); r++) {
      if (r >= s->rows) {
        memset(padded, 0, width * n * sizeof(real));
        padded += width * n;
        continue;
      }
      for (long c = 0; c < s->columns; c++) {
        real *to = padded ? padded : dense;
        for (long k = 0; k < n; k++) to[k] = back(activated[k], activated[n + k], gradient[k], gradient[n + k]);
        if (padded && dense) memcpy(dense, padded, n * sizeof(real));
        activated += 2 * n, gradient += 2 * n;
        if (dense) dense += n;
        if (padded) padded += n;
      }
      if (padded && width > s->columns) {
        memset(padded, 0, (width - s->columns) * n * sizeof(real));
        padded += (width - s->columns) * n;
      }
    }
}

/* value + a sigmoid(b), (a, b) = gates + shift, and its concat_elu. shift: (images, 2 channels), or none. */
int gate(const Shape *s, const real *value, const Strided *gates, const real *shift, real *out, real *activated) {
  long n = s->channels;
  real *moved = malloc(2 * n * sizeof(real));
  if (!moved) return 1;
  for (long i = 0; i < s->images; i++)
    for (long r = 0; r < s->rows; r++)
      for (long c = 0; c < s->columns; c++) {
        const real *ab = place(gates, i, r, c);
        if (shift) {
          for (long k = 0; k < 2 * n; k++) moved[k] = ab[k] + shift[i * 2 * n + k];
          ab = moved;
        }
        for (long k = 0; k < n; k++) out[k] = value[k] + ab[k] * sigmoid(ab[n + k]);
        concat_elu(out, activated, n);
        value += n, out += n, activated += 2 * n;
      }
  free(moved);
  return 0;
}

INLINE void gates_back(const real *restrict ab, const real *restrict gradient, real *restrict to, long n) {
  for (long k = 0; k < n; k++) {
    real open = sigmoid(ab[n + k]);
    to[k] = gradient[k] * open;
    to[n + k] = gradient[k] * ab[k] * open * (1 - open);
  }
}

/* gradient, activated_gradient: of the two outputs, each or none. to_value: dense; to_gates: `height` by `width`. */
int gate_back(const Shape *s, const Strided *gates, const real *shift, const real *activated, const real *gradient,
              const real *activated_gradient, real *to_value, real *to_gates, long height, long width) {
  long n = s->channels;
  real *moved = malloc(2 * n * sizeof(real));
  if (!moved) return 1;
  for (long i = 0; i < s->images; i++)
    for (long r = 0; r < height; r++) {
      if (r >= s->rows) {
        memset(to_gates, 0, width * 2 * n * sizeof(real));
        to_gates += width * 2 * n;
        continue;
      }
      for (long c = 0; c < s->columns; c++) {
        const real *ab = place(gates, i, r, c);
        if (activated_gradient) {
          const real *up = activated_gradient;
          for (long k = 0; k < n; k++) to_value[k] = back(activated[k], activated[n + k], up[k], up[n + k]);
          activated_gradient += 2 * n;
        } else {
          memset(to_value, 0, n * sizeof(real));
        }
        if (gradient) {
          add_to(to_value, gradient, n);
          gradient += n;
        }
        if (shift) {
          for (long k = 0; k < 2 * n; k++) moved[k] = ab[k] + shift[i * 2 * n + k];
          ab = moved;
        }
        gates_back(ab, to_value, to_gates, n);
        activated += 2 * n, to_value += n, to_gates += 2 * n;
      }
      memset(to_gates, 0, (width - s->columns) * 2 * n * sizeof(real));
      to_gates += (width - s->columns) * 2 * n;
    }
  free(moved);
  return 0;
}
