"""What a training writes down: its log, learning curves, throughput, TensorBoard events."""
