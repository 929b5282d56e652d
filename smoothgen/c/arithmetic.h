/* Products of strided matrices with packed weights, and element-wise functions, for float or (with -DDOUBLE) double.
 *
 * The rows of a matrix may overlap, as the windows of a convolution do: nothing is copied to be multiplied.
 */
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define BYTES 64
#else
#define BYTES 32
#endif
#ifdef DOUBLE
typedef double real;
typedef long long word;
#else
typedef float real;
typedef int word;
#endif
#define LANES ((long)(BYTES / sizeof(real)))
#define MOST_VECTORS 5
#define INLINE static inline __attribute__((always_inline))

typedef real vec __attribute__((vector_size(BYTES), aligned(sizeof(real)), may_alias));

INLINE long padded(long n) { return (n + LANES - 1) / LANES * LANES; }

/* Packed weights: panels of up to MOST_VECTORS vectors of columns, each (inputs, columns), columns padded by zeros. */
INLINE long panel_vectors(long vectors) {
  long panels = (vectors + MOST_VECTORS - 1) / MOST_VECTORS;
  return (vectors + panels - 1) / panels;
}

long packed_size(long inputs, long outputs) { return inputs * padded(outputs); }

void pack(const real *weight, long inputs, long outputs, real *out) {
  long vectors = padded(outputs) / LANES, wide = panel_vectors(vectors);
  for (long first = 0; first < vectors; first += wide) {
    long columns = (vectors - first < wide ? vectors - first : wide) * LANES;
    for (long i = 0; i < inputs; i++)
      for (long c = 0; c < columns; c++) {
        long column = first * LANES + c;
        *out++ = column < outputs ? weight[i * outputs + column] : 0;
      }
  }
}

/* c (rows, vectors) += a (rows, inputs) @ w (inputs, vectors): element (r, i) of a at r * a_row + i * a_column. */
INLINE void tile(const int rows, const int vectors, long inputs, const real *a, long a_row, long a_column, const real *w,
                 long w_step, real *c, long c_step) {
  vec sum[8][MOST_VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) sum[r][v] = *(vec *)(c + r * c_step + v * LANES);
  for (long i = 0; i < inputs; i++) {
    vec weight[MOST_VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) weight[v] = *(const vec *)(w + i * w_step + v * LANES);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
      for (int v = 0; v < vectors; v++) sum[r][v] += weight[v] * a[r * a_row + i * a_column];
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) *(vec *)(c + r * c_step + v * LANES) = sum[r][v];
}

/* One row: four sums at a time, so that no product waits for the one before it. */
INLINE void tile_of_one(const int vectors, long inputs, const real *a, long a_column, const real *w, long w_step,
                        real *c) {
  vec sum[4][MOST_VECTORS];
#pragma GCC unroll 8
  for (int s = 0; s < 4; s++)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) sum[s][v] = s ? (vec){0} : *(vec *)(c + v * LANES);
  long i = 0;
  for (; i + 4 <= inputs; i += 4)
#pragma GCC unroll 8
    for (int s = 0; s < 4; s++)
#pragma GCC unroll 8
      for (int v = 0; v < vectors; v++)
        sum[s][v] += *(const vec *)(w + (i + s) * w_step + v * LANES) * a[(i + s) * a_column];
  for (; i < inputs; i++)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) sum[0][v] += *(const vec *)(w + i * w_step + v * LANES) * a[i * a_column];
#pragma GCC unroll 8
  for (int v = 0; v < vectors; v++) *(vec *)(c + v * LANES) = (sum[0][v] + sum[1][v]) + (sum[2][v] + sum[3][v]);
}

#ifdef __AVX512F__
#define TALL_1 8
#define TALL_2 8
#define TALL_3 8
#define TALL_4 6
#define TALL_5 5
#else
#define TALL_1 6
#define TALL_2 6
#define TALL_3 4
#define TALL_4 3
#define TALL_5 2
#endif

#define PANEL(VECTORS, TALL)                                                                                      \
  INLINE void panel_of_##VECTORS(long rows, long inputs, const real *a, long a_row, long a_column, const real *w, \
                                 long w_step, real *c, long c_step) {                                             \
    long r = 0;                                                                                                   \
    for (; r + TALL <= rows; r += TALL)                                                                           \
      tile(TALL, VECTORS, inputs, a + r * a_row, a_row, a_column, w, w_step, c + r * c_step, c_step);             \
    for (; r + 4 <= rows && TALL > 4; r += 4)                                                                     \
      tile(4, VECTORS, inputs, a + r * a_row, a_row, a_column, w, w_step, c + r * c_step, c_step);                \
    for (; r + 2 <= rows; r += 2)                                                                                 \
      tile(2, VECTORS, inputs, a + r * a_row, a_row, a_column, w, w_step, c + r * c_step, c_step);                \
    for (; r < rows; r++) tile_of_one(VECTORS, inputs, a + r * a_row, a_column, w, w_step, c + r * c_step);       \
  }                                                                                                               \
  static void packed_##VECTORS(long rows, long inputs, const real *a, long a_row, const real *w, real *c,         \
                               long c_step) {                                                                     \
    panel_of_##VECTORS(rows, inputs, a, a_row, 1, w, VECTORS * LANES, c, c_step);                                 \
  }                                                                                                               \
  __attribute__((unused)) static void crossed_##VECTORS(long rows, long inputs, const real *a, long a_column,     \
                                                        const real *w, long w_step, real *c, long c_step) {       \
    panel_of_##VECTORS(rows, inputs, a, 1, a_column, w, w_step, c, c_step);                                       \
  }
PANEL(1, TALL_1)
PANEL(2, TALL_2)
PANEL(3, TALL_3)
PANEL(4, TALL_4)
PANEL(5, TALL_5)

/* c (rows, padded outputs) += a (rows, inputs) @ weight, packed; a_step, c_step: from one row to the next. */
__attribute__((unused)) static void product(long rows, long inputs, long outputs, const real *a, long a_step,
                                            const real *w, real *c, long c_step) {
  long vectors = padded(outputs) / LANES, wide = panel_vectors(vectors);
  for (long first = 0; first < vectors; first += wide) {
    long now = vectors - first < wide ? vectors - first : wide;
    real *to = c + first * LANES;
    switch (now) {
      case 1: packed_1(rows, inputs, a, a_step, w, to, c_step); break;
      case 2: packed_2(rows, inputs, a, a_step, w, to, c_step); break;
      case 3: packed_3(rows, inputs, a, a_step, w, to, c_step); break;
      case 4: packed_4(rows, inputs, a, a_step, w, to, c_step); break;
      default: packed_5(rows, inputs, a, a_step, w, to, c_step);
    }
    w += inputs * now * LANES;
  }
}

/* c (rows, padded outputs) += a^T @ b, a (inputs, rows), b (inputs, padded outputs). */
__attribute__((unused)) static void product_across(long rows, long inputs, long outputs, const real *a, long a_step,
                                                   const real *b, long b_step, real *c, long c_step) {
  long vectors = padded(outputs) / LANES, wide = panel_vectors(vectors);
  for (long first = 0; first < vectors; first += wide) {
    const real *from = b + first * LANES;
    real *to = c + first * LANES;
    switch (vectors - first < wide ? vectors - first : wide) {
      case 1: crossed_1(rows, inputs, a, a_step, from, b_step, to, c_step); break;
      case 2: crossed_2(rows, inputs, a, a_step, from, b_step, to, c_step); break;
      case 3: crossed_3(rows, inputs, a, a_step, from, b_step, to, c_step); break;
      case 4: crossed_4(rows, inputs, a, a_step, from, b_step, to, c_step); break;
      default: crossed_5(rows, inputs, a, a_step, from, b_step, to, c_step);
    }
  }
}

/* exp(x) = scale (1 + rest), |x - log scale| <= log(2) / 2. Constants: Cephes (Moshier 1989), expf.c and exp.c. */
#define SPLIT_EXP(NAME, TYPE, WORD, LEAST, MOST, MAGIC, HIGH, LOW, BIAS, SHIFT, REST)     \
  INLINE TYPE NAME(TYPE x, TYPE *rest) {                                                  \
    x = x < (TYPE)LEAST ? (TYPE)LEAST : x;                                                \
    x = x > (TYPE)MOST ? (TYPE)MOST : x;                                                  \
    TYPE k = (x * (TYPE)1.4426950408889634 + (TYPE)MAGIC) - (TYPE)MAGIC;                  \
    TYPE r = (x - k * (TYPE)HIGH) - k * (TYPE)LOW;                                        \
    union { WORD bits; TYPE value; } scale;                                               \
    scale.bits = ((WORD)k + BIAS) << SHIFT;                                               \
    *rest = REST;                                                                         \
    return scale.value;                                                                   \
  }
#define REST_FLOAT                                                                                              \
  ((((((1.9875691500E-4f * r + 1.3981999507E-3f) * r + 8.3334519073E-3f) * r + 4.1665795894E-2f) * r +           \
     1.6666665459E-1f) * r + 5.0000001201E-1f) * r * r + r)
#define ODD_DOUBLE (r * ((1.26177193074810590878E-4 * r * r + 3.02994407707441961300E-2) * r * r + 1.0))
#define EVEN_DOUBLE \
  (((3.00198505138664455042E-6 * r * r + 2.52448340349684104192E-3) * r * r + 2.27265548208155028766E-1) * r * r + 2.0)
#define REST_DOUBLE (2.0 * ODD_DOUBLE / (EVEN_DOUBLE - ODD_DOUBLE))

SPLIT_EXP(split_double, double, long long, -708.0, 709.0, 6755399441055744.0, 6.93145751953125E-1,
          1.42860682030941723212E-6, 1023, 52, REST_DOUBLE)
#ifdef DOUBLE
#define split_exp split_double
#else
SPLIT_EXP(split_exp, float, int, -87.0, 88.0, 12582912.0, 0.693359375, -2.12194440e-4, 127, 23, REST_FLOAT)
#endif

INLINE real exp_minus_one(real x) {
  real rest, scale = split_exp(x, &rest);
  return scale * rest + (scale - 1);
}

INLINE real sigmoid(real x) {
  real rest, scale = split_exp(-x, &rest);
  return 1 / (1 + (scale * rest + scale));
}

INLINE double sigmoid_double(double x) {
  double rest, scale = split_double(-x, &rest);
  return 1.0 / (1.0 + (scale * rest + scale));
}

/* elu of v and of -v side by side: of the two, one is an exponential and the other |v|. */
INLINE void concat_elu(const real *restrict value, real *restrict place, long n) {
  for (long i = 0; i < n; i++) {
    real v = value[i], low = exp_minus_one(v < 0 ? v : -v);
    place[i] = v > 0 ? v : low;
    place[n + i] = v < 0 ? -v : low;
  }
}

INLINE void add_gated(real *restrict value, const real *restrict gates, long n) {
  for (long i = 0; i < n; i++) value[i] += gates[i] * sigmoid(gates[n + i]);
}

INLINE void add_to(real *restrict to, const real *restrict from, long n) {
  for (long i = 0; i < n; i++) to[i] += from[i];
}
