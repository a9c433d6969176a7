package api

import (
	"io"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"
)

// Patient lets a request and its answer take as long as they move. The time-outs
// of the server are for requests of ordinary size, and would cut off an import
// or an export by the clock; here each read and each write has the patience
// instead. Call it before [Body].
func Patient(c *gin.Context, patience time.Duration) {
	control := http.NewResponseController(c.Writer)
	c.Request.Body = patientBody{c.Request.Body, control, patience}
	c.Writer = patientWriter{c.Writer, control, patience}
}

// The errors of setting a deadline are left out: a connection that has none, as
// in a test, needs none, and one that is gone fails at the read or write itself.

type patientBody struct {
	io.ReadCloser
	control  *http.ResponseController
	patience time.Duration
}

func (b patientBody) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(b.patience))
	return b.ReadCloser.Read(p)
}

type patientWriter struct {
	gin.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
}

func (w patientWriter) Write(p []byte) (int, error) {
	_ = w.control.SetWriteDeadline(time.Now().Add(w.patience))
	return w.ResponseWriter.Write(p)
}

func (w patientWriter) WriteString(s string) (int, error) {
	_ = w.control.SetWriteDeadline(time.Now().Add(w.patience))
	return w.ResponseWriter.WriteString(s)
}

func (w patientWriter) Flush() {
	_ = w.control.SetWriteDeadline(time.Now().Add(w.patience))
	w.ResponseWriter.Flush()
}
