/* log density of mixtures of logistics or of Gaussians, with its derivatives. See mixture_density.py. */
#include "arithmetic.h"

#ifdef DOUBLE
#define LOG log
#define LOG1P log1p
#else
#define LOG logf
#define LOG1P log1pf
#endif
#define HALF_LOG_2PI 0.91893853320467274178

enum { LOGISTIC, GAUSSIAN };

INLINE real exponential(real x) {
  real rest, scale = split_exp(x, &rest);
  return scale * rest + scale;
}

/* What the parameters of a mixture are: rows of `count` numbers, `step` apart. */
typedef struct {
  const real *at;
  long step;
} Rows;

/* room: 4 count. d_x (rows), the others (rows, count): derivatives, or none of them. */
INLINE void one(long family, long count, real x, const real *logits, const real *loc, const real *log_scale,
                real *restrict room, real *out, real *d_x, real *d_logits, real *d_loc, real *d_log_scale) {
  real *joint = room, *z = room + count, *slope = room + 2 * count, *inverse = room + 3 * count;
  real most = -HUGE_VAL, most_logit = -HUGE_VAL, sum = 0, sum_of_weights = 0;
  for (long k = 0; k < count; k++) {
    inverse[k] = exponential(-log_scale[k]);
    z[k] = (x - loc[k]) * inverse[k];
    real shape;
    if (family == LOGISTIC) {
      real away = z[k] < 0 ? -z[k] : z[k], e = exponential(-away), tail = (1 - e) / (1 + e); /* tanh(|z| / 2) */
      slope[k] = z[k] < 0 ? -tail : tail;
      shape = -away - 2 * LOG1P(e);
    } else {
      slope[k] = z[k];
      shape = (real)-0.5 * z[k] * z[k];
    }
    joint[k] = logits[k] - log_scale[k] + shape;
    most = joint[k] > most ? joint[k] : most;
    most_logit = logits[k] > most_logit ? logits[k] : most_logit;
  }
  for (long k = 0; k < count; k++) {
    joint[k] -= most;
    sum += exponential(joint[k]);
    sum_of_weights += exponential(logits[k] - most_logit);
  }
  *out = most + LOG(sum) - most_logit - LOG(sum_of_weights) - (family == GAUSSIAN ? (real)HALF_LOG_2PI : 0);
  if (!d_x) return;
  real total = 0;
  for (long k = 0; k < count; k++) {
    real responsible = exponential(joint[k]) / sum, pulled = responsible * slope[k];
    d_logits[k] = responsible - exponential(logits[k] - most_logit) / sum_of_weights;
    d_loc[k] = pulled * inverse[k];
    d_log_scale[k] = pulled * z[k] - responsible;
    total -= d_loc[k];
  }
  *d_x = total;
}

int log_density(long rows, long count, long family, const real *x, const Rows *logits, const Rows *loc,
                const Rows *log_scale, real *out, real *d_x, real *d_logits, real *d_loc, real *d_log_scale) {
  real *room = malloc(4 * count * sizeof(real));
  if (!room) return 1;
  for (long r = 0; r < rows; r++) {
    const real *l = logits->at + r * logits->step, *m = loc->at + r * loc->step, *s = log_scale->at + r * log_scale->step;
    real *to = d_x ? d_x + r : NULL;
    long at = r * count;
    if (family == LOGISTIC)
      one(LOGISTIC, count, x[r], l, m, s, room, out + r, to, d_logits + at, d_loc + at, d_log_scale + at);
    else
      one(GAUSSIAN, count, x[r], l, m, s, room, out + r, to, d_logits + at, d_loc + at, d_log_scale + at);
  }
  free(room);
  return 0;
}
