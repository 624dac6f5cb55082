"""What a distillation does besides its updates: looks at the student, order of the data, bars."""
