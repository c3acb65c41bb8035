package agent

// Need is need, for the tests that stand outside.
var Need = need
