"""How far predicted probabilities are from how often they come true.

Of logits z [examples, classes]: p = softmax(z), confidence c = max_k p_k, correct a = 1 where argmax p is the class.

Source of the set of measures: Tao et al., "A Benchmark Study on Calibration" (ICLR 2024).
"""
