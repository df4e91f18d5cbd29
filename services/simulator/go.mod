module reelway.dev/services/simulator

go 1.26.0

require (
	github.com/golang-jwt/jwt/v5 v5.3.1
	reelway.dev/pkg v0.0.0
)

require github.com/google/uuid v1.6.0 // indirect

replace (
	reelway.dev/pkg => ../../pkg
	reelway.dev/proto => ../../proto
)
