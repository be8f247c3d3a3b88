"""The experiments: each takes a data set under study to a result that JSON can hold."""
