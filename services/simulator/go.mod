module reelway.dev/services/simulator

go 1.26

require (
	reelway.dev/pkg v0.0.0
	reelway.dev/proto v0.0.0
)

replace (
	reelway.dev/pkg => ../../pkg
	reelway.dev/proto => ../../proto
)
