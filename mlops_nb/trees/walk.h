/* The walk for one kind of NUMBER: included by walk.c once for 32 bits and once for 64.  */

typedef struct { NUMBER above; uint32_t feature, left; } NAMED(node); /* right is left + 1 */

typedef struct {
    const NAMED(node) *nodes;
    const uint8_t *missing_right;   /* for each node, whether a NaN goes right */
    const uint32_t *weights_at;     /* for each leaf, where its weights begin */
    const NUMBER *weights;
    const NUMBER *base;             /* for each target, what is added at the end */
    const tree *trees;
    int64_t tree_count, targets, width;
    float divisor;                  /* of VOTES */
    int32_t finish;
} NAMED(forest);

static inline void NAMED(add)(const NAMED(forest) *f, const tree *t, uint32_t leaf, NUMBER *sums)
{
    const NUMBER *weights = f->weights + f->weights_at[leaf];
    for (uint32_t j = 0; j < t->targets; j++) sums[t->target + j] += weights[j];
}

/* GROUP rows down one tree.  Three of four tries to write this otherwise gave a compiler the idea of a branch.  */
static inline void NAMED(group)(const NAMED(forest) *f, const tree *t, const NUMBER *x, int64_t stride, NUMBER *sums)
{
    const NAMED(node) *nodes = f->nodes;
    uint32_t at[GROUP];
    for (int k = 0; k < GROUP; k++) at[k] = t->root;
    for (uint32_t level = t->depth; level; level--)
        for (int k = 0; k < GROUP; k++) {
            const NAMED(node) *n = nodes + at[k];
            at[k] = n->left + (x[k * stride + n->feature] > n->above);
        }
    for (int k = 0; k < GROUP; k++) NAMED(add)(f, t, at[k], sums + k * f->targets);
}

/* One row down GROUP trees.  Those that are less deep wait at their leaves.  */
static inline void NAMED(alone)(const NAMED(forest) *f, const tree *trees, int count, const NUMBER *x, NUMBER *sums)
{
    const NAMED(node) *nodes = f->nodes;
    uint32_t at[GROUP], deepest = 0;
    for (int k = 0; k < GROUP; k++) {
        const tree *t = trees + (k < count ? k : 0);
        at[k] = t->root;
        if (t->depth > deepest) deepest = t->depth;
    }
    for (uint32_t level = deepest; level; level--)
        for (int k = 0; k < GROUP; k++) {
            const NAMED(node) *n = nodes + at[k];
            at[k] = n->left + (x[n->feature] > n->above);
        }
    for (int k = 0; k < count; k++) NAMED(add)(f, trees + k, at[k], sums);
}

/* One row with a NaN down all trees, which ask at each node where missing values go.  */
static void NAMED(with_gaps)(const NAMED(forest) *f, const NUMBER *x, NUMBER *sums)
{
    for (int64_t t = 0; t < f->tree_count; t++) {
        uint32_t at = f->trees[t].root;
        for (uint32_t level = f->trees[t].depth; level; level--) {
            NUMBER value = x[f->nodes[at].feature];
            at = f->nodes[at].left + ((value > f->nodes[at].above) | ((value != value) & f->missing_right[at]));
        }
        NAMED(add)(f, f->trees + t, at, sums);
    }
}

static int NAMED(gap_in)(const NUMBER *x, int64_t count)
{
    int found = 0;
    for (int64_t i = 0; i < count; i++) found |= x[i] != x[i];
    return found;
}

static inline float NAMED(logistic)(float score)
{
    float share = 1.0f / (1.0f + expf(-fabsf(score)));
    return score < 0 ? 1.0f - share : share;
}

static int64_t NAMED(largest)(const float *scores, int64_t count)
{
    int64_t first = 0;
    for (int64_t j = 1; j < count; j++) if (scores[j] > scores[first]) first = j;
    return first;
}

static void NAMED(softmax)(float *scores, int64_t count)
{
    float most = scores[NAMED(largest)(scores, count)], sum = 0;
    for (int64_t j = 0; j < count; j++) { scores[j] = expf(scores[j] - most); sum += scores[j]; }
    for (int64_t j = 0; j < count; j++) scores[j] /= sum;
}

/* What a row's sums say, as ONNX Runtime's operators say it: scores (two of one target's), and which label.  */
static void NAMED(finished)(const NAMED(forest) *f, const NUMBER *sums, float *scores, int64_t *label)
{
    float score;
    switch (f->finish) {
    case SHARE: /* one target, the second label's share */
        score = (float)(sums[0] + f->base[0]);
        *label = score > 0.5f;
        scores[0] = 1.0f - score;
        scores[1] = score;
        return;
    case SIGNS: /* one target, a logit */
        score = (float)(sums[0] + f->base[0]);
        *label = score > 0;
        scores[0] = NAMED(logistic)(-score);
        scores[1] = NAMED(logistic)(score);
        return;
    }
    for (int64_t j = 0; j < f->targets; j++) scores[j] = (float)(sums[j] + f->base[j]);
    if (f->finish == SCORES) return;
    *label = NAMED(largest)(scores, f->targets);
    if (f->finish == VOTES) for (int64_t j = 0; j < f->targets; j++) scores[j] /= f->divisor;
    if (f->finish == SOFTMAX) NAMED(softmax)(scores, f->targets);
}

/* The scores and the label of each of so many rows.  */
void NAMED(mlops_trees)(const NAMED(forest) *f, const NUMBER *x, int64_t rows, float *scores, int64_t *labels)
{
    NUMBER sums[MOST_SUMS];
    int64_t width = f->width, targets = f->targets, each = f->finish == SHARE || f->finish == SIGNS ? 2 : targets;
    int64_t most = MOST_SUMS / targets < BLOCK ? MOST_SUMS / targets : BLOCK;
    for (int64_t first = 0; first < rows; first += most) {
        int64_t count = rows - first < most ? rows - first : most, grouped = count - count % GROUP;
        const NUMBER *block = x + first * width;
        for (int64_t i = 0; i < count * targets; i++) sums[i] = 0;
        if (NAMED(gap_in)(block, count * width)) {
            for (int64_t r = 0; r < count; r++) NAMED(with_gaps)(f, block + r * width, sums + r * targets);
        } else {
            for (int64_t t = 0; t < f->tree_count; t++)
                for (int64_t r = 0; r < grouped; r += GROUP) NAMED(group)(f, f->trees + t, block + r * width, width, sums + r * targets);
            for (int64_t r = grouped; r < count; r++)
                for (int64_t t = 0; t < f->tree_count; t += GROUP) {
                    int64_t left = f->tree_count - t;
                    NAMED(alone)(f, f->trees + t, left < GROUP ? (int)left : GROUP, block + r * width, sums + r * targets);
                }
        }
        for (int64_t r = 0; r < count; r++) NAMED(finished)(f, sums + r * targets, scores + (first + r) * each, labels + first + r);
    }
}
