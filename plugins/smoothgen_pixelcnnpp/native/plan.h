/* What compiled_rows.py hands over: weights, and the buffers of ActivationCache. */
#pragma once
#include "arithmetic.h"

/* A block of the vertical stream. Weights of a convolution: those of the row above, then of the row itself. */
typedef struct {
  const real *into_above, *into_here, *skip, *out_above, *out_here, *bias, *out_bias, *shift;
  long source, target, skip_slot;
  real *hidden;
} VerticalBlock;

typedef struct {
  const real *into_above, *into_here, *skip_of_u, *own_skip, *out_above, *out_here, *bias, *out_bias, *shift;
  long source, target, skip_slot;
  real *hidden, *into, *out;
} HorizontalBlock;

typedef struct {
  long width, even, ups, blocks, deepest, first_down;
  VerticalBlock *u;
  HorizontalBlock *h;
  real *u_inputs, *h_inputs; /* (slots, batch, 2, width + 2, 2n), (slots, batch, width + 2, 2n) */
  real *u_raw, *u_raw_above, *h_raw, *h_raw_above; /* (batch, width + 2, n) */
  real *u_held, *entry;                            /* (batch, width, n) */
  real *doubled, *doubled_active;                  /* (batch, 2, even, n or 2n) */
  const real *u_context, *h_context;               /* (height, blocks, batch, width, n) or none */
  /* between the finer resolution and this one */
  const real *u_halve_above, *u_halve_here, *u_halve_bias, *u_double, *u_double_bias;
  const real *h_halve_above, *h_halve_here, *h_halve_bias, *h_double, *h_double_bias;
} Level;

typedef struct {
  long batch, height, filters, channels, size, levels;
  Level *level;
  real *seen; /* (batch, channels + 1, 3, width + 2) */
  const real *u_first, *u_first_bias, *h_above, *h_above_bias, *h_left, *h_left_bias, *out, *out_bias;
  /* the pixels' distribution */
  long components, discrete_levels;
  double low, bin_width;
  const double *shift, *unit; /* (channels) */
  const real *level_values;   /* (discrete_levels) */
} Plan;

typedef struct {
  const real *logit_u, *values; /* (batch, height, width, channels) */
  const unsigned char *known;   /* the same, or none */
  real *image, *raws;           /* the same; (batch, width, size) or none */
} Request;

INLINE real *put_row(const Level *l, real *buffer, long image, long row, long n) {
  return buffer + ((image * 2 + row) * (l->width + 2)) * 2 * n;
}
