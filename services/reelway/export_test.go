package reelway

// Doing is a state and how long it still takes, as a progress bar says it.
var Doing = doing
