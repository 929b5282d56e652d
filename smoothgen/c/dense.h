/* A small dense network, forward and backward.
 *
 * h_0 = W_0 x + b_0, h_l = W_l f(h_(l-1)) + b_l, plus h_(l-1) where the layer is residual. Rows of all buffers are padded
 * to whole vectors; the padding holds zeros wherever it is read as an input.
 */
#pragma once
#include "arithmetic.h"

typedef struct {
  long inputs, outputs, residual;
  const real *weight, *bias; /* (outputs, inputs), (outputs) or none */
  real *weight_gradient, *bias_gradient;
} Layer;

enum { SILU, RELU, TANH };

INLINE real tanh_of(real x) { return 2 * sigmoid(2 * x) - 1; }

static void activate_dense(long kind, const real *restrict h, real *restrict a, long n) {
  if (kind == SILU)
    for (long i = 0; i < n; i++) a[i] = h[i] * sigmoid(h[i]);
  else if (kind == RELU)
    for (long i = 0; i < n; i++) a[i] = h[i] < 0 ? 0 : h[i];
  else
    for (long i = 0; i < n; i++) a[i] = tanh_of(h[i]);
}

/* g (of f(h)) becomes g f'(h); kept: h of silu, f(h) of the others */
static void activate_back(long kind, const real *restrict kept, real *restrict g, long n) {
  if (kind == SILU)
    for (long i = 0; i < n; i++) {
      real open = sigmoid(kept[i]);
      g[i] *= open * (1 + kept[i] * (1 - open));
    }
  else if (kind == RELU)
    for (long i = 0; i < n; i++) g[i] = kept[i] > 0 ? g[i] : 0;
  else
    for (long i = 0; i < n; i++) g[i] *= 1 - kept[i] * kept[i];
}

/* weight (outputs, inputs) for products with rows of inputs: as pack, transposed on the way. */
static void pack_across(const real *weight, long inputs, long outputs, real *out) {
  long vectors = padded(outputs) / LANES, wide = panel_vectors(vectors);
  for (long first = 0; first < vectors; first += wide) {
    long columns = (vectors - first < wide ? vectors - first : wide) * LANES, from = first * LANES;
    long there = outputs - from < columns ? outputs - from : columns;
    if (there < columns) memset(out, 0, inputs * columns * sizeof(real));
    for (long i = 0; i < inputs; i += 8) {
      long end = i + 8 < inputs ? i + 8 : inputs;
      for (long c = 0; c < there; c++)
        for (long k = i; k < end; k++) out[k * columns + c] = weight[(from + c) * inputs + k];
    }
    out += inputs * columns;
  }
}

/* Numbers that `forward` keeps for `backward`: x, and of every hidden layer what its derivative is computed from. */
static long dense_kept_size(long batch, long count, const Layer *layers) {
  long size = padded(layers[0].inputs);
  for (long l = 0; l + 1 < count; l++) size += padded(layers[l].outputs);
  return batch * size;
}

static long widest(long count, const Layer *layers) {
  long most = padded(layers[0].inputs);
  for (long l = 0; l < count; l++) most = padded(layers[l].outputs) > most ? padded(layers[l].outputs) : most;
  return most;
}

/* Room that a thread keeps: fresh memory for every call costs more in page faults than the arithmetic of a small net. */
static real *room(long size) {
  static _Thread_local real *kept;
  static _Thread_local long kept_size;
  if (size > kept_size) {
    free(kept);
    kept = malloc(size * sizeof(real));
    kept_size = kept ? size : 0;
  }
  return kept;
}

/* Rows go through all layers a few at a time, so that what a layer gives is still near when the next one reads it. */
#define BLOCK 64

/* x (batch, inputs) -> out (batch, outputs of the last layer). Returns 1 if there is no memory.
 * x may be none: then it stands in `kept` already, its rows padded by zeros.
 */
static int dense_forward(long batch, long count, const Layer *layers, long kind, const real *x, long x_step, real *kept, real *out) {
  long most = widest(count, layers), first = padded(layers[0].inputs), weights = 0;
  for (long l = 0; l < count; l++) weights += packed_size(layers[l].inputs, layers[l].outputs);
  real *packed = room(weights + 3 * BLOCK * most), *h = packed + weights, *before = h + BLOCK * most;
  real *activated = before + BLOCK * most;
  if (!packed) return 1;
  real *w = packed;
  for (long l = 0; l < count; l++) {
    pack_across(layers[l].weight, layers[l].inputs, layers[l].outputs, w);
    w += packed_size(layers[l].inputs, layers[l].outputs);
  }
  for (long start = 0; start < batch; start += BLOCK) {
    long rows = batch - start < BLOCK ? batch - start : BLOCK;
    real *copy = kept + start * first, *whole = kept + batch * first;
    for (long r = 0; x && r < rows; r++) {
      memcpy(copy + r * first, x + (start + r) * x_step, layers[0].inputs * sizeof(real));
      memset(copy + r * first + layers[0].inputs, 0, (first - layers[0].inputs) * sizeof(real));
    }
    const real *input = copy;
    w = packed;
    for (long l = 0; l < count; l++) {
      long n = layers[l].outputs, step = padded(n), in = padded(layers[l].inputs);
      for (long r = 0; r < rows; r++) {
        real *row = h + r * step;
        if (layers[l].bias)
          memcpy(row, layers[l].bias, n * sizeof(real));
        else
          memset(row, 0, n * sizeof(real));
        memset(row + n, 0, (step - n) * sizeof(real));
        if (layers[l].residual) add_to(row, before + r * step, n);
      }
      product(rows, layers[l].inputs, n, input, in, w, h, step);
      w += packed_size(layers[l].inputs, n);
      if (l + 1 < count) {
        real *here = whole + start * step, *to = kind == SILU ? activated : here;
        activate_dense(kind, h, to, rows * step);
        if (kind == SILU) memcpy(here, h, rows * step * sizeof(real));
        input = to, whole += batch * step;
        real *swap = h;
        h = before, before = swap;
      } else {
        for (long r = 0; r < rows; r++) memcpy(out + (start + r) * n, h + r * step, n * sizeof(real));
      }
    }
  }
  return 0;
}

/* gradient (batch, outputs of the last layer) -> gradients of weights and biases, where asked for, and of x. */
static int dense_backward(long batch, long count, const Layer *layers, long kind, const real *kept, const real *gradient,
             real *x_gradient) {
  long most = widest(count, layers), size = 3 * BLOCK * most;
  for (long l = 0; l < count; l++)
    size += packed_size(layers[l].outputs, layers[l].inputs) + layers[l].outputs * padded(layers[l].inputs);
  real *memory = room(size), *activated = memory + 2 * BLOCK * most, *at = activated + BLOCK * most;
  if (!memory) return 1;
  real *packed[count], *sums[count];
  for (long l = 0; l < count; l++) {
    long n = layers[l].outputs, in = padded(layers[l].inputs);
    packed[l] = at, at += packed_size(n, layers[l].inputs);
    sums[l] = at, at += n * in;
    pack(layers[l].weight, n, layers[l].inputs, packed[l]);
    memset(sums[l], 0, n * in * sizeof(real));
    if (layers[l].bias_gradient) memset(layers[l].bias_gradient, 0, n * sizeof(real));
  }
  for (long start = 0; start < batch; start += BLOCK) {
    long rows = batch - start < BLOCK ? batch - start : BLOCK, n = layers[count - 1].outputs, step = padded(n);
    const real *end = kept + dense_kept_size(batch, count, layers);
    real *g = memory, *next = g + BLOCK * most;
    for (long r = 0; r < rows; r++) {
      memcpy(g + r * step, gradient + (start + r) * n, n * sizeof(real));
      memset(g + r * step + n, 0, (step - n) * sizeof(real));
    }
    for (long l = count - 1; l >= 0; l--) {
      const Layer *layer = layers + l;
      n = layer->outputs, step = padded(n);
      long m = layer->inputs, in = padded(m);
      const real *here = l ? end - (batch - start) * in : kept + start * in, *input = here;
      if (l && kind == SILU) {
        activate_dense(kind, here, activated, rows * in);
        input = activated;
      }
      if (layer->bias_gradient)
        for (long r = 0; r < rows; r++) add_to(layer->bias_gradient, g + r * step, n);
      if (layer->weight_gradient) product_across(n, rows, m, g, step, input, in, sums[l], in);
      if (!l && !x_gradient) break;
      memset(next, 0, rows * in * sizeof(real));
      product(rows, n, m, g, step, packed[l], next, in);
      if (l) {
        activate_back(kind, here, next, rows * in);
        if (layer->residual) add_to(next, g, rows * in);
        end -= batch * in;
      } else {
        for (long r = 0; r < rows; r++) memcpy(x_gradient + (start + r) * m, next + r * in, m * sizeof(real));
      }
      real *swap = g;
      g = next, next = swap;
    }
  }
  for (long l = 0; l < count; l++)
    if (layers[l].weight_gradient) {
      long m = layers[l].inputs, in = padded(m);
      for (long o = 0; o < layers[l].outputs; o++)
        memcpy(layers[l].weight_gradient + o * m, sums[l] + o * in, m * sizeof(real));
    }
  return 0;
}
