package api

import (
	"net/url"

	"github.com/gin-gonic/gin"
)

// Param returns a parameter of the path as the client meant it. On an engine of
// [NewEngine], c.Param returns it as it was encoded: an encoded slash is part of
// the parameter, and a plus sign is a plus sign.
func Param(c *gin.Context, name string) (string, error) {
	text, err := url.PathUnescape(c.Param(name))
	if err != nil {
		return "", Field(name, "is not encoded as a path must be")
	}
	return text, nil
}
