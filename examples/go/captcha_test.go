package captcha

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// live returns a solver for the service at CAPTCHA_URL, and the image at CAPTCHA_IMAGE.
func live(t *testing.T) (*CaptchaSolver, []byte) {
	t.Helper()
	url, path := os.Getenv("CAPTCHA_URL"), os.Getenv("CAPTCHA_IMAGE")
	if url == "" || path == "" {
		t.Skip("CAPTCHA_URL and CAPTCHA_IMAGE name no live service")
	}
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return NewCaptchaSolver(url + "/"), image
}

func TestSolve(t *testing.T) {
	solver, image := live(t)
	text, err := solver.Solve(image)
	if err != nil || text == "" {
		t.Fatalf("text %q, error %v", text, err)
	}
	answer, err := solver.SolveWithConfidence(image)
	if err != nil || answer.Text != text {
		t.Fatalf("answer %+v, error %v, first text %q", answer, err, text)
	}
	if answer.Confidence <= 0 || answer.Confidence > 1 {
		t.Errorf("confidence %v is no probability", answer.Confidence)
	}
}

func TestSolveFromManyGoroutines(t *testing.T) {
	solver, image := live(t)
	want, err := solver.Solve(image)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := 0; i < 8; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			if text, err := solver.Solve(image); err != nil || text != want {
				t.Errorf("text %q, want %q, error %v", text, want, err)
			}
		}()
	}
	group.Wait()
}

func TestOptionsAreSent(t *testing.T) {
	solver, image := live(t)
	solver.Options = Options{Case: "upper"}
	text, err := solver.Solve(image)
	if err != nil || text != strings.ToUpper(text) {
		t.Errorf("text %q, error %v", text, err)
	}
	solver.Options = Options{Kind: "poem"}
	var refused *Error
	if _, err := solver.Solve(image); !errors.As(err, &refused) || refused.Type != "invalid_option" {
		t.Errorf("error %v", err)
	}
	if _, err := solver.SolveBatch([][]byte{image}); !errors.As(err, &refused) {
		t.Errorf("error %v", err)
	}
}

func TestABadImageIsAnErrorAndNeverAText(t *testing.T) {
	solver, _ := live(t)
	text, err := solver.Solve([]byte("this is a text"))
	var refused *Error
	if text != "" || !errors.As(err, &refused) {
		t.Fatalf("text %q, error %v", text, err)
	}
	if refused.Status != http.StatusUnsupportedMediaType || refused.Type != "unsupported_image_type" {
		t.Errorf("error %+v", refused)
	}
}

func TestABatchKeepsItsOrderAndOneBadImageFailsAlone(t *testing.T) {
	solver, image := live(t)
	want, err := solver.Solve(image)
	if err != nil {
		t.Fatal(err)
	}
	answers, err := solver.SolveBatch([][]byte{image, []byte("this is a text"), image})
	if err != nil || len(answers) != 3 {
		t.Fatalf("%d answers, error %v", len(answers), err)
	}
	if answers[0].Text != want || answers[2].Text != want || !answers[0].Success {
		t.Errorf("answers %+v", answers)
	}
	if answers[1].Success || answers[1].Text != "" || answers[1].ErrorType == "" {
		t.Errorf("bad image: %+v", answers[1])
	}
}

func TestFeedback(t *testing.T) {
	solver, image := live(t)
	answer, err := solver.SolveWithConfidence(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := solver.Feedback(answer.RequestID, true, ""); err != nil {
		t.Errorf("right: %v", err)
	}
	answers, err := solver.SolveBatch([][]byte{image, image})
	if err != nil {
		t.Fatal(err)
	}
	if err := solver.Feedback(answers[1].RequestID, false, "abcd"); err != nil {
		t.Errorf("corrected: %v", err)
	}
	var refused *Error
	err = solver.Feedback("unknown", true, "")
	if !errors.As(err, &refused) || refused.Type != "unknown_request" {
		t.Errorf("error %v", err)
	}
}

// stub returns a solver for a server that always answers the same.
func stub(t *testing.T, status int, body string) *CaptchaSolver {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	return NewCaptchaSolver(server.URL)
}

func TestNoAnswerIsAnError(t *testing.T) {
	solver := stub(t, 200, `{"success":false,"text":"","error":"None.","error_type":"no_answer"}`)
	text, err := solver.Solve(nil)
	var refused *Error
	if text != "" || !errors.As(err, &refused) || refused.Type != "no_answer" {
		t.Errorf("text %q, error %v", text, err)
	}
}

func TestARefusalSaysWhenToRetry(t *testing.T) {
	solver := stub(t, 503, `{"success":false,"text":"","error":"Full.","error_type":"queue_full"}`)
	_, err := solver.Solve(nil)
	var refused *Error
	if !errors.As(err, &refused) || refused.RetryAfter != 3*time.Second || refused.Status != 503 {
		t.Errorf("error %v", err)
	}
}

func TestWhatIsNotTheServiceIsNeverAText(t *testing.T) {
	for _, status := range []int{200, 404, 502} {
		if text, err := stub(t, status, "<html>abcd</html>").Solve(nil); text != "" || err == nil {
			t.Errorf("status %d: text %q, error %v", status, text, err)
		}
	}
}
