/* The vertical stream of a row, for one image. */
#pragma once
#include "plan.h"

/* rows (count, c_step) all set to one vector */
INLINE void set_rows(real *to, long step, const real *vector, long count, long n) {
  for (long j = 0; j < count; j++) {
    memcpy(to + j * step, vector, n * sizeof(real));
    memset(to + j * step + n, 0, (step - n) * sizeof(real));
  }
}

/* concat_elu of rows of values to a row of a buffer whose first column is padding */
INLINE void put_values(real *place, const real *values, long step, long width, long n) {
  for (long j = 0; j < width; j++) concat_elu(values + j * step, place + (j + 1) * 2 * n, n);
}

typedef struct {
  real *value, *hidden, *gates, *six; /* rows of one image, or images at one pixel */
  long n_step, two_step, six_step;
} Scratch;

static void vertical_block(const Plan *p, const Level *l, long b, long image, long row, long place, Scratch *s) {
  long n = p->filters, w = l->width, step = 2 * n;
  const VerticalBlock *block = l->u + b;
  real *slots = l->u_inputs;
  long slot_size = p->batch * 2 * (w + 2) * step;
  real *source = slots + block->source * slot_size, *target = slots + block->target * slot_size;
  set_rows(s->hidden, s->n_step, block->bias, w, n);
  if (l->u_context) {
    const real *added = l->u_context + (((row * l->blocks + b) * p->batch + image) * w) * n;
    for (long j = 0; j < w; j++) add_to(s->hidden + j * s->n_step, added + j * n, n);
  }
  product(w, 6 * n, n, put_row(l, source, image, 1 - place, n), step, block->into_above, s->hidden, s->n_step);
  product(w, 6 * n, n, put_row(l, source, image, place, n), step, block->into_here, s->hidden, s->n_step);
  if (block->skip) {
    const real *skip = put_row(l, slots + block->skip_slot * slot_size, image, place, n) + step;
    product(w, step, n, skip, step, block->skip, s->hidden, s->n_step);
  }
  put_values(put_row(l, block->hidden, image, place, n), s->hidden, s->n_step, w, n);
  set_rows(s->gates, s->two_step, block->out_bias, w, step);
  if (block->shift)
    for (long j = 0; j < w; j++) add_to(s->gates + j * s->two_step, block->shift + image * step, step);
  product(w, 6 * n, step, put_row(l, block->hidden, image, 1 - place, n), step, block->out_above, s->gates, s->two_step);
  product(w, 6 * n, step, put_row(l, block->hidden, image, place, n), step, block->out_here, s->gates, s->two_step);
  for (long j = 0; j < w; j++) add_gated(s->value + j * s->n_step, s->gates + j * s->two_step, n);
  put_values(put_row(l, target, image, place, n), s->value, s->n_step, w, n);
}

static void vertical(const Plan *p, long image, long row, long active, const long *places, Scratch *s) {
  long n = p->filters, channels = p->channels + 1;
  Level *l = p->level;
  const real *seen = p->seen + image * channels * 3 * (l->width + 2);
  real patch[6 * channels];
  set_rows(s->value, s->n_step, p->u_first_bias, l->width, n);
  for (long j = 0; j < l->width; j++) {
    for (long c = 0; c < channels; c++)
      for (long i = 0; i < 2; i++)
        for (long t = 0; t < 3; t++) patch[(c * 2 + i) * 3 + t] = seen[(c * 3 + i) * (l->width + 2) + j + t];
    product(1, 6 * channels, n, patch, 0, p->u_first, s->value + j * s->n_step, s->n_step);
  }
  if (row == 0) memset(s->value, 0, l->width * s->n_step * sizeof(real));
  for (long k = 0; k <= active; k++) {
    l = p->level + k;
    if (k) {
      Level *finer = l - 1;
      long offset = image * (finer->width + 2) * n;
      set_rows(s->value, s->n_step, l->u_halve_bias, l->width, n);
      product(l->width, 3 * n, n, finer->u_raw_above + offset, 2 * n, l->u_halve_above, s->value, s->n_step);
      product(l->width, 3 * n, n, finer->u_raw + offset, 2 * n, l->u_halve_here, s->value, s->n_step);
    }
    put_values(put_row(l, l->u_inputs, image, places[k], n), s->value, s->n_step, l->width, n);
    for (long b = 0; b < l->ups; b++) vertical_block(p, l, b, image, row >> k, places[k], s);
    real *raw = l->u_raw + (image * (l->width + 2) + 1) * n;
    for (long j = 0; j < l->width; j++) memcpy(raw + j * n, s->value + j * s->n_step, n * sizeof(real));
  }
  for (long k = active; k >= 0; k--) {
    l = p->level + k;
    long slot_size = p->batch * 2 * (l->width + 2) * 2 * n;
    if (!l->deepest) {
      if (k == active)
        for (long j = 0; j < l->width; j++)
          memcpy(s->value + j * s->n_step, l->u_held + (image * l->width + j) * n, n * sizeof(real));
      put_values(put_row(l, l->u_inputs + l->first_down * slot_size, image, places[k], n), s->value, s->n_step,
                 l->width, n);
    }
    for (long b = l->ups; b < l->blocks; b++) vertical_block(p, l, b, image, row >> k, places[k], s);
    if (k) { /* each pixel spreads over three columns of two rows: this row's to value, the next one's is held */
      Level *finer = l - 1;
      real *held = finer->u_held + image * finer->width * n;
      memset(s->six, 0, l->width * s->six_step * sizeof(real));
      product(l->width, n, 6 * n, s->value, s->n_step, l->u_double, s->six, s->six_step);
      set_rows(s->value, s->n_step, l->u_double_bias, finer->width, n);
      for (long j = 0; j < finer->width; j++) memcpy(held + j * n, l->u_double_bias, n * sizeof(real));
      for (long j = 0; j < l->width; j++)
        for (long t = 0; t < 3; t++) {
          long column = 2 * j + t - 1;
          if (column < 0 || column >= finer->width) continue;
          add_to(s->value + column * s->n_step, s->six + j * s->six_step + t * n, n);
          add_to(held + column * n, s->six + j * s->six_step + (3 + t) * n, n);
        }
    }
  }
}
