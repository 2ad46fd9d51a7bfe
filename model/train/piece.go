package train

import "context"

// TrainingDocuments returns, of the documents of a source that [Prepare] trains on, those that hold about limit bytes, sampled evenly.
func TrainingDocuments(ctx context.Context, s Source, limit int64) (documents []string, err error) {
	files, err := s.files()
	if err != nil {
		return nil, err
	}
	training := sample{limit: 2 * limit}
	if _, err := s.each(ctx, files, func(d document) error {
		if !d.heldout() && !d.valid() {
			training.add(d)
		}
		return nil
	}, nil); err != nil {
		return nil, err
	}
	for _, d := range training.within(limit) {
		documents = append(documents, d.text)
	}
	return documents, nil
}

// Piece returns what is kept of a document that is held out: all of a short one, a piece from somewhere in a long one. Documents that
// are to be compared with those held out must be cut as those were.
func Piece(document string) string { return onePiece(document) }
