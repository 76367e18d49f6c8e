/* Rows through a tree ensemble without a branch that a processor could guess wrong.

   ONNX Runtime asks at every node whether to go left; of rows that differ half of the guesses are wrong, each for some twenty
   cycles.  Here both ways are one addition (a node's children lie side by side), and GROUP rows walk at once, so that one's
   loads are hidden behind the others'.  A leaf is its own left child, and no number is above its infinite threshold: who has
   arrived stays.  Sums are made in the order of ONNX Runtime's on one thread, so they are the same to the last bit.

   Nothing here allocates, fails or calls anything but expf; `compiled.py` says what the arrays are and checks them first.  */

#include <math.h>
#include <stdint.h>

#define GROUP 16       /* rows side by side */
#define BLOCK 256      /* rows that go through all trees before the next ones */
#define MOST_SUMS 4096 /* targets of all of them: they stay in the processor's nearest cache */

enum finish { SCORES, VOTES, SHARE, SIGNS, FIRST, SOFTMAX };

typedef struct { uint32_t root, depth, target, targets; } tree;

#define NUMBER float
#define NAMED(name) name##_32
#include "walk.h"
#undef NUMBER
#undef NAMED

#define NUMBER double
#define NAMED(name) name##_64
#include "walk.h"
