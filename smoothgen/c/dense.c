/* The network of dense.h for dense.py. */
#include "dense.h"

long kept_size(long batch, long count, const Layer *layers) { return dense_kept_size(batch, count, layers); }

int forward(long batch, long count, const Layer *layers, long kind, const real *x, long x_step, real *kept, real *out) {
  return dense_forward(batch, count, layers, kind, x, x_step, kept, out);
}

int backward(long batch, long count, const Layer *layers, long kind, const real *kept, const real *gradient,
             real *x_gradient) {
  return dense_backward(batch, count, layers, kind, kept, gradient, x_gradient);
}
