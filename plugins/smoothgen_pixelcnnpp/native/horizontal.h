/* The horizontal stream: what a row gets before its pixels are known, one pixel, and what a row hands on. */
#pragma once
#include "vertical.h"

static void from_vertical(const Plan *p, long k, long image, long row, const long *places, Scratch *s) {
  Level *l = p->level + k;
  long n = p->filters, w = l->width, slot_size = p->batch * 2 * (w + 2) * 2 * n;
  for (long b = 0; b < l->blocks; b++) {
    const HorizontalBlock *block = l->h + b;
    const real *u = put_row(l, l->u_inputs + l->u[b].target * slot_size, image, places[k], n) + 2 * n;
    real *into = block->into + image * w * n;
    for (long j = 0; j < w; j++) {
      memcpy(s->hidden + j * s->n_step, into + j * n, n * sizeof(real));
      memset(s->hidden + j * s->n_step + n, 0, (s->n_step - n) * sizeof(real));
    }
    product(w, 2 * n, n, u, 2 * n, block->skip_of_u, s->hidden, s->n_step);
    if (l->h_context) {
      const real *added = l->h_context + (((row * l->blocks + b) * p->batch + image) * w) * n;
      for (long j = 0; j < w; j++) add_to(s->hidden + j * s->n_step, added + j * n, n);
    }
    for (long j = 0; j < w; j++) memcpy(into + j * n, s->hidden + j * s->n_step, n * sizeof(real));
  }
}

static void entry(const Plan *p, long k, long image, long row, Scratch *s) {
  Level *l = p->level + k;
  long n = p->filters, w = l->width, channels = p->channels + 1;
  if (k) {
    const real *above = l[-1].h_raw_above + image * (l[-1].width + 2) * n;
    set_rows(s->value, s->n_step, l->h_halve_bias, w, n);
    product(w, 2 * n, n, above, 2 * n, l->h_halve_above, s->value, s->n_step);
  } else {
    const real *seen = p->seen + image * channels * 3 * (w + 2);
    real patch[3 * channels];
    if (row)
      set_rows(s->value, s->n_step, p->h_above_bias, w, n);
    else
      memset(s->value, 0, w * s->n_step * sizeof(real));
    for (long j = 0; j < w; j++) {
      for (long c = 0; c < channels; c++)
        for (long t = 0; t < 3; t++) patch[c * 3 + t] = seen[(c * 3 + 1) * (w + 2) + j + t];
      if (row) product(1, 3 * channels, n, patch, 0, p->h_above, s->value + j * s->n_step, s->n_step);
      if (!j) continue;
      for (long c = 0; c < channels; c++)
        for (long i = 0; i < 2; i++) patch[c * 2 + i] = seen[(c * 3 + 1 + i) * (w + 2) + j];
      add_to(s->value + j * s->n_step, p->h_left_bias, n);
      product(1, 2 * channels, n, patch, 0, p->h_left, s->value + j * s->n_step, s->n_step);
    }
  }
  for (long j = 0; j < w; j++) memcpy(l->entry + (image * w + j) * n, s->value + j * s->n_step, n * sizeof(real));
}

static void begin_row(const Plan *p, long image, long row, long active, const long *places, Scratch *s) {
  long n = p->filters, channels = p->channels + 1, width = p->level->width;
  for (long c = 0; c < p->channels; c++)
    memset(p->seen + ((image * channels + c) * 3 + 2) * (width + 2), 0, (width + 2) * sizeof(real));
  vertical(p, image, row, active, places, s);
  for (long k = 0; k <= active; k++) {
    from_vertical(p, k, image, row >> k, places, s);
    entry(p, k, image, row, s);
  }
  Level *bottom = p->level + active;
  if (!bottom->deepest) {
    long even = bottom->even, slot_size = p->batch * (bottom->width + 2) * 2 * n;
    real *doubled = bottom->doubled + image * 2 * even * n, *told = bottom->doubled_active + image * 4 * even * n;
    memcpy(doubled, doubled + even * n, even * n * sizeof(real));
    memcpy(bottom->h_inputs + bottom->first_down * slot_size + (image * (bottom->width + 2) + 1) * 2 * n,
           told + even * 2 * n, bottom->width * 2 * n * sizeof(real));
  }
}

/* What the finished row gives to the row below. */
static void end_row(const Plan *p, long image, long active, Scratch *s) {
  long n = p->filters, channels = p->channels + 1, width = p->level->width;
  for (long k = 0; k <= active; k++) {
    Level *l = p->level + k;
    long w = l->width, slot_size = p->batch * (w + 2) * 2 * n;
    for (long b = 0; b < l->blocks; b++) {
      const HorizontalBlock *block = l->h + b;
      const real *source = l->h_inputs + block->source * slot_size + image * (w + 2) * 2 * n;
      const real *hidden = block->hidden + image * (w + 2) * 2 * n;
      set_rows(s->hidden, s->n_step, block->bias, w, n);
      product(w, 4 * n, n, source, 2 * n, block->into_above, s->hidden, s->n_step);
      for (long j = 0; j < w; j++) memcpy(block->into + (image * w + j) * n, s->hidden + j * s->n_step, n * sizeof(real));
      set_rows(s->gates, s->two_step, block->out_bias, w, 2 * n);
      product(w, 4 * n, 2 * n, hidden, 2 * n, block->out_above, s->gates, s->two_step);
      for (long j = 0; j < w; j++) {
        real *out = block->out + (image * w + j) * 2 * n;
        memcpy(out, s->gates + j * s->two_step, 2 * n * sizeof(real));
        if (block->shift) add_to(out, block->shift + image * 2 * n, 2 * n);
      }
    }
    long row = (w + 2) * n;
    memcpy(l->u_raw_above + image * row, l->u_raw + image * row, row * sizeof(real));
    memcpy(l->h_raw_above + image * row, l->h_raw + image * row, row * sizeof(real));
  }
  for (long c = 0; c < channels; c++) {
    real *seen = p->seen + (image * channels + c) * 3 * (width + 2);
    memmove(seen, seen + width + 2, 2 * (width + 2) * sizeof(real));
  }
}

/* ------------------------------------------------------------------------------------------------ one pixel */

static void horizontal_block(const Plan *p, const Level *l, long b, long first, long count, long j, Scratch *s) {
  long n = p->filters, w = l->width, step = (w + 2) * 2 * n, slot_size = p->batch * step;
  const HorizontalBlock *block = l->h + b;
  real *source = l->h_inputs + block->source * slot_size + first * step + j * 2 * n;
  real *target = l->h_inputs + block->target * slot_size + first * step + (j + 1) * 2 * n;
  real *hidden = block->hidden + first * step + j * 2 * n;
  for (long i = 0; i < count; i++) {
    memcpy(s->hidden + i * s->n_step, block->into + ((first + i) * w + j) * n, n * sizeof(real));
    memcpy(s->gates + i * s->two_step, block->out + ((first + i) * w + j) * 2 * n, 2 * n * sizeof(real));
  }
  product(count, 4 * n, n, source, step, block->into_here, s->hidden, s->n_step);
  if (block->own_skip) {
    const real *skip = l->h_inputs + block->skip_slot * slot_size + first * step + (j + 1) * 2 * n;
    product(count, 2 * n, n, skip, step, block->own_skip, s->hidden, s->n_step);
  }
  for (long i = 0; i < count; i++) concat_elu(s->hidden + i * s->n_step, hidden + i * step + 2 * n, n);
  product(count, 4 * n, 2 * n, hidden, step, block->out_here, s->gates, s->two_step);
  for (long i = 0; i < count; i++) {
    real *value = s->value + i * s->n_step;
    add_gated(value, s->gates + i * s->two_step, n);
    concat_elu(value, target + i * step, n);
  }
}

/* The pixel's last value at this resolution, spread over the four pixels of the finer one. */
static void spread(const Plan *p, const Level *l, long first, long count, long j, Scratch *s) {
  const Level *finer = l - 1;
  long n = p->filters, even = finer->even, slot_size = p->batch * (finer->width + 2) * 2 * n;
  set_rows(s->six, s->six_step, l->h_double_bias, count, 4 * n);
  product(count, n, 4 * n, s->value, s->n_step, l->h_double, s->six, s->six_step);
  for (long i = 0; i < count; i++) {
    long image = first + i;
    for (long row = 0; row < 2; row++)
      for (long t = 0; t < 2; t++) {
        const real *value = s->six + i * s->six_step + (2 * row + t) * n;
        long at = (image * 2 + row) * even + 2 * j + t;
        memcpy(finer->doubled + at * n, value, n * sizeof(real));
        concat_elu(value, finer->doubled_active + at * 2 * n, n);
      }
    long columns = finer->width - 2 * j < 2 ? finer->width - 2 * j : 2;
    memcpy(finer->h_inputs + finer->first_down * slot_size + (image * (finer->width + 2) + 2 * j + 1) * 2 * n,
           finer->doubled_active + (image * 2 * even + 2 * j) * 2 * n, columns * 2 * n * sizeof(real));
  }
}

/* Raw parameters of column j to s->six, (count, six_step). */
static void pixel(const Plan *p, long first, long count, long j, long active, Scratch *s) {
  long n = p->filters, channels = p->channels + 1, deepest = 0;
  while (deepest < active && j % (2L << deepest) == 0) deepest++;
  for (long k = 0; k <= deepest; k++) {
    Level *l = p->level + k;
    long at = j >> k, w = l->width;
    for (long i = 0; i < count; i++)
      memcpy(s->value + i * s->n_step, l->entry + ((first + i) * w + at) * n, n * sizeof(real));
    if (k) {
      long step = (l[-1].width + 2) * n;
      product(count, 2 * n, n, l[-1].h_raw + first * step + 2 * at * n, step, l->h_halve_here, s->value, s->n_step);
    } else if (j) {
      /* the pixel to the left, in the row itself: rows 2c + 1 of h_left's weight, for every channel c */
      for (long i = 0; i < count; i++) {
        real patch[2 * channels];
        memset(patch, 0, sizeof(patch));
        for (long c = 0; c < p->channels; c++)
          patch[2 * c + 1] = p->seen[(((first + i) * channels + c) * 3 + 2) * (w + 2) + j];
        product(1, 2 * channels, n, patch, 0, p->h_left, s->value + i * s->n_step, s->n_step);
      }
    }
    for (long i = 0; i < count; i++)
      concat_elu(s->value + i * s->n_step, l->h_inputs + ((first + i) * (w + 2) + at + 1) * 2 * n, n);
    for (long b = 0; b < l->ups; b++) horizontal_block(p, l, b, first, count, at, s);
    if (!l->deepest)
      for (long i = 0; i < count; i++)
        memcpy(l->h_raw + ((first + i) * (w + 2) + at + 1) * n, s->value + i * s->n_step, n * sizeof(real));
  }
  for (long k = deepest; k >= 0; k--) {
    Level *l = p->level + k;
    long at = j >> k;
    if (!l->deepest)
      for (long i = 0; i < count; i++)
        memcpy(s->value + i * s->n_step, l->doubled + ((first + i) * 2 * l->even + at) * n, n * sizeof(real));
    for (long b = l->ups; b < l->blocks; b++) horizontal_block(p, l, b, first, count, at, s);
    if (k) spread(p, l, first, count, at, s);
  }
  Level *l = p->level;
  long step = (l->width + 2) * 2 * n, last = l->first_down + l->blocks - l->ups;
  set_rows(s->six, s->six_step, p->out_bias, count, p->size);
  product(count, n, p->size, l->h_inputs + last * p->batch * step + first * step + (j + 1) * 2 * n, step, p->out, s->six,
          s->six_step);
}
