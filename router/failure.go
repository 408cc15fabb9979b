package router

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// undelivered ends an attempt of which no byte was sent.
func (x *Exchange) undelivered(err error) Outcome {
	if x.ended() {
		return Answered
	}
	x.forwarder.log.Debug("request not delivered", "upstream", x.upstream.Address, "err", err)
	return NotDelivered
}

// StatusClientGone is nginx's word for a client that did not wait for its answer.
// It is seen in logs and metrics only.
const StatusClientGone = 499

// ended answers a request whose time is over, or whose client is gone. It reports
// false for any other.
func (x *Exchange) ended() bool {
	if x.ctx.Err() == nil {
		return false
	}
	if problem := expired(x.ctx); problem != nil {
		WriteProblem(x.w, x.r, *problem)
	} else {
		x.w.WriteHeader(StatusClientGone)
	}
	return true
}

// broken ends an attempt whose answer did not come: because of the client, if its
// body broke off first, or of the upstream.
func (x *Exchange) broken(err error) Outcome {
	clients := x.sending.clientError()
	if clients == nil || x.ctx.Err() != nil {
		return x.failed(err)
	}
	problem := Problem{Status: http.StatusBadRequest, Code: "BadBody", Message: fmt.Sprintf("the request's body cannot be read: %v", clients)}
	switch {
	case errors.Is(clients, errBodyTooLarge):
		problem = bodyTooLarge(x.opts.Policy.maxBody)
	case errors.Is(clients, errBodyStalled):
		problem.Status, problem.Code = http.StatusRequestTimeout, "BodyTimeout"
		// Whoever waits for the body, the server too, is not to wait on.
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Now())
	}
	x.w.Header().Set("Connection", "close")
	WriteProblem(x.w, x.r, problem)
	return Answered
}

// failed ends an attempt that may have been executed.
func (x *Exchange) failed(err error) Outcome {
	if x.ended() {
		return Answered
	}
	x.broke = true
	x.forwarder.log.Warn("upstream failed", "upstream", x.upstream.Address, "method", x.r.Method, "requestId", x.r.Header.Get(HeaderRequestID), "err", err)
	problem := x.explain(x.ctx)
	if problem == nil {
		problem = &Problem{
			Status:  http.StatusBadGateway,
			Code:    "UpstreamFailed",
			Message: fmt.Sprintf("the function's container broke the connection before it answered (%v); the request may have been executed and was not sent again", err),
		}
	}
	WriteProblem(x.w, x.r, *problem)
	return Answered
}
