// Package captcha asks a captcha service to read images.
//
//	solver := captcha.NewCaptchaSolver("http://127.0.0.1:5000")
//	text, err := solver.Solve(image)
//
// A text is returned only where the service says that it has one: a program that submits texts never submits
// an error message.
package captcha

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// The service answers an /ocr request within 8 s, or says that it cannot.
	solveTimeout = 10 * time.Second
	// A batch has a longer deadline of its own, 60 s.
	batchTimeout = 70 * time.Second
	// Replies are small: whatever is larger is not one of the service's.
	maxReplyBytes = 16 << 20
)

// Answer is what the service says about one image.
type Answer struct {
	Success     bool     `json:"success"`
	Text        string   `json:"text"`
	Confidence  float64  `json:"confidence"`
	RawResponse string   `json:"raw_response"`
	Filename    string   `json:"filename"`
	Error       string   `json:"error"`
	ErrorType   string   `json:"error_type"`
	Warnings    []string `json:"warnings"`
	RequestID   string   `json:"-"` // what Feedback is given
}

// Error is a rejection by the service, or an image without a usable answer.
type Error struct {
	Status     int           // HTTP status, 200 where the model had no answer
	Type       string        // for instance "queue_full", "no_answer"
	Message    string        // one sentence
	RetryAfter time.Duration // 0 where waiting does not help
}

func (e *Error) Error() string {
	return fmt.Sprintf("captcha service: %s (%s, status %d)", e.Message, e.Type, e.Status)
}

// Options restrict what is read; empty ones are not sent.
type Options struct {
	Prompt  string // instruction for models that follow one
	Kind    string // auto, text, digits, chinese, math, question
	Charset string // the allowed characters
	Case    string // keep, lower, upper
}

func (o Options) fields() map[string]string {
	given := map[string]string{}
	all := map[string]string{"prompt": o.Prompt, "kind": o.Kind, "charset": o.Charset, "case": o.Case}
	for name, value := range all {
		if value != "" {
			given[name] = value
		}
	}
	return given
}

// CaptchaSolver asks one service; it may be used by many goroutines at once.
type CaptchaSolver struct {
	// Options of every request.
	Options Options

	baseURL string
	client  *http.Client
}

// NewCaptchaSolver returns a solver that asks the service at a URL such as http://127.0.0.1:5000.
func NewCaptchaSolver(baseURL string) *CaptchaSolver {
	return &CaptchaSolver{baseURL: strings.TrimRight(baseURL, "/"), client: &http.Client{}}
}

// Solve returns the text of one image. An *Error says what the service had against it.
func (s *CaptchaSolver) Solve(imageBytes []byte) (string, error) {
	answer, err := s.SolveWithConfidence(imageBytes)
	return answer.Text, err
}

// SolveWithConfidence returns the whole answer to one image, whose text is empty with an error.
func (s *CaptchaSolver) SolveWithConfidence(imageBytes []byte) (Answer, error) {
	query := url.Values{}
	for name, value := range s.Options.fields() {
		query.Set(name, value)
	}
	path := "/ocr"
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	var answer Answer
	id, err := s.post(path, "application/octet-stream", imageBytes, solveTimeout, &answer)
	if err != nil {
		return Answer{}, err
	}
	answer.RequestID = id
	if !answer.Success {
		return Answer{}, &Error{Status: http.StatusOK, Type: answer.ErrorType, Message: answer.Error}
	}
	return answer, nil
}

// SolveBatch returns an answer for each image, in order; look at Success of each.
func (s *CaptchaSolver) SolveBatch(images [][]byte) ([]Answer, error) {
	encoded := make([]string, len(images))
	for i, image := range images {
		encoded[i] = base64.StdEncoding.EncodeToString(image)
	}
	request := map[string]any{"images_base64": encoded}
	for name, value := range s.Options.fields() {
		request[name] = value
	}
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	var reply struct {
		Results []Answer `json:"results"`
	}
	id, err := s.post("/batch-ocr", "application/json", body, batchTimeout, &reply)
	if err != nil {
		return nil, err
	}
	if len(reply.Results) != len(images) {
		return nil, errors.New("captcha service: not one result for each image")
	}
	for i := range reply.Results {
		reply.Results[i].RequestID = fmt.Sprintf("%s#%d", id, i+1)
	}
	return reply.Results, nil
}

// Feedback says whether the site took the answer with a RequestID, for a service that collects
// (COLLECT_DIR). The right text is empty where it is unknown, or the answer was right.
func (s *CaptchaSolver) Feedback(requestID string, correct bool, rightText string) error {
	body, err := json.Marshal(map[string]any{
		"request_id": requestID, "correct": correct, "text": rightText,
	})
	if err != nil {
		return err
	}
	var reply struct{}
	_, err = s.post("/feedback", "application/json", body, solveTimeout, &reply)
	return err
}

// post sends a body, decodes the reply into result and returns the id of the request.
func (s *CaptchaSolver) post(
	path, contentType string, body []byte, timeout time.Duration, result any,
) (string, error) {
	client := *s.client
	client.Timeout = timeout
	response, err := client.Post(s.baseURL+path, contentType, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxReplyBytes))
	if err != nil {
		return "", err
	}
	if response.StatusCode == http.StatusOK {
		return response.Header.Get("X-Request-Id"), json.Unmarshal(data, result)
	}
	return "", rejection(response, data)
}

// rejection returns the error of a reply whose status is not 200.
func rejection(response *http.Response, data []byte) error {
	var answer Answer
	if json.Unmarshal(data, &answer) != nil || answer.ErrorType == "" {
		return fmt.Errorf("not a captcha service: status %s", response.Status)
	}
	seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
	return &Error{
		Status:     response.StatusCode,
		Type:       answer.ErrorType,
		Message:    answer.Error,
		RetryAfter: time.Duration(seconds) * time.Second,
	}
}
